"""Paged decode attention against plain torch, with NaN wherever nothing may be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bough.kernels.gpu.attention_decode import DecodeConfig
from bough.kernels.gpu.attention_decode_split import choose_splits, decode_workspace
from tests.kernels.gpu.attention_cases import (
    SENTINEL,
    assert_close,
    attend_decodes,
    captured,
    decodes,
    make_case,
    room_for_decodes,
)


@pytest.mark.parametrize("num_splits", [1, 3, 4])
def test_float32_equals_the_reference_across_page_and_split_boundaries(device: torch.device, num_splits: int) -> None:
    case = make_case(decodes(1, 15, 16, 17, 31, 32, 33, 64, 65, 95, 127, 128, 129, 257, 700), device)
    assert_close(attend_decodes(case, num_splits=num_splits), case.expected())


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8, 16])
def test_heads_of_a_group_share_the_keys_of_their_own_head(device: torch.device, group: int) -> None:
    case = make_case(decodes(5, 90), device, heads=(2 * group, 2))
    assert_close(attend_decodes(case, num_splits=3), case.expected())


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_head_dimension_in_both_dtypes(device: torch.device, head_dim: int, dtype: torch.dtype) -> None:
    case = make_case(decodes(1, 77, 130), device, head_dim=head_dim, dtype=dtype)
    assert_close(attend_decodes(case, num_splits=2), case.expected())


@pytest.mark.parametrize("config", [DecodeConfig(16, 1, 4), DecodeConfig(64, 4, 3), DecodeConfig(128, 4, 2)])
@pytest.mark.parametrize("num_splits", [1, 4])
def test_every_block_size_gives_the_same(device: torch.device, config: DecodeConfig, num_splits: int) -> None:
    case = make_case(decodes(16, 63, 129, 300), device, dtype=torch.bfloat16)
    assert_close(attend_decodes(case, num_splits=num_splits, config=config), case.expected())


@pytest.mark.parametrize("window", [1, 16, 33, 100, 1000])
@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_window_sees_its_own_tokens_and_reads_no_page_before(
    device: torch.device, window: int, num_splits: int
) -> None:
    case = make_case(decodes(1, 16, 40, 100, 101, 233), device, window=window)
    assert_close(attend_decodes(case, num_splits=num_splits), case.expected())


@pytest.mark.parametrize("num_splits", [1, 2])
def test_padding_lines_read_nothing_and_leave_the_output_alone(device: torch.device, num_splits: int) -> None:
    case = make_case(decodes(70, 0, 33, 0), device)
    case.rows[1] = 2**30
    out = attend_decodes(case, num_splits=num_splits)
    case.rows[1] = 0
    expected = case.expected()
    expected[case.context_lens == 0] = SENTINEL
    assert_close(out, expected)


def test_a_workspace_serves_one_launch_after_another_with_other_contexts(device: torch.device) -> None:
    first = make_case(decodes(300, 20, 64, 500), device)
    second = make_case(decodes(10, 650, 0, 130), device)
    workspace = room_for_decodes(first, 8)
    for case in (first, second, first):
        expected = case.expected()
        expected[case.context_lens == 0] = SENTINEL
        assert_close(attend_decodes(case, num_splits=8, workspace=workspace), expected)
        assert not workspace.counters.any()


@pytest.mark.parametrize("early", [False, True])
def test_a_captured_launch_follows_what_device_memory_holds(device: torch.device, early: bool) -> None:
    case = make_case(decodes(500, 0, 64, 20, 333), device)
    workspace, out = room_for_decodes(case, 8), torch.empty_like(case.queries)
    pdl = early and device.type == "cuda"

    def launch() -> None:  # twice in a row: the second may start while the first still runs
        attend_decodes(case, num_splits=8, workspace=workspace, out=out, pdl=pdl)
        attend_decodes(case, num_splits=8, workspace=workspace, out=out, pdl=pdl)

    replay = captured(launch, device)
    for contexts in ((20, 500, 333, 0, 64), (333, 64, 20, 500, 0)):
        case.overwrite(make_case(decodes(*contexts), device))
        out.fill_(SENTINEL)
        replay()
        expected = case.expected()
        expected[case.context_lens == 0] = SENTINEL
        assert_close(out, expected)


def test_a_context_shorter_than_two_parts_is_not_cut(device: torch.device) -> None:
    case = make_case(decodes(64, 40), device)
    workspace = room_for_decodes(case, 4)
    workspace.partials.fill_(SENTINEL)
    assert_close(attend_decodes(case, num_splits=4, min_split_tokens=64, workspace=workspace), case.expected())
    assert bool((workspace.partials == SENTINEL).all())


def test_parts_are_chosen_to_fill_the_gpu_and_where_lines_do_only_long_contexts_are_cut() -> None:
    assert choose_splits(1, 8, 132) == (66, 64)
    assert choose_splits(1, 1, 1000) == (128, 64)
    assert choose_splits(32, 8, 132) == (8, 128)
    assert choose_splits(64, 8, 132) == (8, 512)
    assert choose_splits(256, 8, 132) == (4, 512)
    with pytest.raises(ValueError, match="num_lines"):
        choose_splits(0, 8, 132)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("queries", torch.zeros(2, 4, 40), "head_dim must be a multiple of 16"),
        ("queries", torch.zeros(2, 4, 32, dtype=torch.float64), "queries must be bfloat16"),
        ("queries", torch.zeros(2, 5, 32), "queries: 5 heads over 2"),
        ("queries", torch.zeros(2, 32, 4).transpose(1, 2), "queries must be contiguous"),
        ("keys", torch.zeros(4, 2, 8, 32), "keys must be"),
        ("values", torch.zeros(1, 2, 16, 32), "values must be"),
        ("rows", torch.zeros(2, dtype=torch.int64), "rows must be int32"),
        ("page_table", torch.zeros(2, dtype=torch.int32), "page_table must be"),
        ("context_lens", torch.zeros(3, dtype=torch.int32), "context_lens must be"),
        ("window", 0, "window must be"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    device: torch.device, field: str, value: Tensor | int, message: str
) -> None:
    case = make_case(decodes(20, 30), device)
    setattr(case, field, value.to(device) if isinstance(value, Tensor) else value)
    with pytest.raises(ValueError, match=message):
        attend_decodes(case, workspace=decode_workspace(2, 4, 2, 32, 1, device))


def test_a_workspace_that_is_too_small_is_refused(device: torch.device) -> None:
    case = make_case(decodes(20, 30), device)
    with pytest.raises(ValueError, match="workspace is too small for 2 lines in 4 parts"):
        attend_decodes(case, num_splits=4, workspace=room_for_decodes(case, 2))
