"""Paged causal attention of chunks against plain torch, with NaN wherever nothing may be read."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bough.kernels.gpu.attention_prefill import PrefillConfig, paged_prefill_attention
from tests.kernels.gpu.attention_cases import (
    AttentionCase,
    assert_close,
    captured,
    make_case,
    mended_interpreter,
)

_SENTINEL = 7.0
# Chunks that begin a row, go on after a cached prefix, hold one token, or none; lengths around blocks and pages.
_MIXED = [(40, 40), (1, 77), (17, 130), (0, 0), (33, 33), (1, 1), (64, 200)]


def _attend(
    case: AttentionCase,
    *,
    skip_single: bool = False,
    config: PrefillConfig | None = None,
    out: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    with mended_interpreter():
        return paged_prefill_attention(
            case.queries,
            case.keys,
            case.values,
            case.page_table,
            case.rows,
            case.query_start,
            case.context_lens,
            scale=case.scale,
            window=case.window,
            out=torch.full_like(case.queries, _SENTINEL) if out is None else out,
            skip_single=skip_single,
            config=config,
            pdl=pdl,
        )


@pytest.mark.parametrize("length", [1, 7, 16, 31, 32, 33, 100, 129])
def test_a_prompt_equals_the_reference(device: torch.device, length: int) -> None:
    case = make_case([(length, length)], device)
    assert_close(_attend(case), case.expected())


def test_chunks_with_a_cached_prefix_and_single_tokens_in_one_step(device: torch.device) -> None:
    case = make_case(_MIXED, device)
    assert_close(_attend(case), case.expected())


@pytest.mark.parametrize(
    "config", [PrefillConfig(16, 64, 4, 2), PrefillConfig(64, 16, 4, 2), PrefillConfig(128, 128, 8, 2)]
)
def test_every_block_size_gives_the_same(device: torch.device, config: PrefillConfig) -> None:
    case = make_case(_MIXED, device, dtype=torch.bfloat16)
    assert_close(_attend(case, config=config), case.expected())


@pytest.mark.parametrize("group", [1, 2, 3, 4, 8, 16])
def test_heads_of_a_group_share_the_keys_of_their_own_head(device: torch.device, group: int) -> None:
    case = make_case([(23, 50), (12, 12)], device, heads=(2 * group, 2))
    assert_close(_attend(case), case.expected())


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_head_dimension_in_both_dtypes(device: torch.device, head_dim: int, dtype: torch.dtype) -> None:
    case = make_case([(35, 35), (20, 90)], device, head_dim=head_dim, dtype=dtype)
    assert_close(_attend(case), case.expected())


@pytest.mark.parametrize("window", [1, 16, 33, 100, 1000])
def test_a_window_sees_its_own_tokens_and_reads_no_page_before(device: torch.device, window: int) -> None:
    case = make_case([(1, 150), (40, 40), (50, 233)], device, window=window)
    assert_close(_attend(case), case.expected())


# A masked score times the scale is rounded up for some head dimensions and down for others; neither may show.
@pytest.mark.parametrize("head_dim", [16, 32, 64, 80, 128, 256])
@pytest.mark.parametrize("block_n", [32, 64, 128])
def test_rows_whose_window_begins_after_the_first_block_take_no_part_in_it(
    device: torch.device, head_dim: int, block_n: int
) -> None:
    lines = [(45, 90), (45, 135), (15, 150), (60, 60), (70, 160)]
    case = make_case(lines, device, head_dim=head_dim, dtype=torch.bfloat16, window=48)
    assert_close(_attend(case, config=PrefillConfig(64, block_n, 4, 1)), case.expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_chunks_of_a_long_prompt_with_a_window_shorter_than_a_chunk(device: torch.device, dtype: torch.dtype) -> None:
    case = make_case([(90, 90), (70, 333), (45, 150)], device, head_dim=16, dtype=dtype, window=20)
    assert_close(_attend(case), case.expected())


def test_padding_tokens_and_padding_lines_are_left_alone(device: torch.device) -> None:
    case = make_case([(20, 60), (1, 0), (0, 0), (9, 9)], device, padding_tokens=70)
    expected = case.expected()
    expected[20] = _SENTINEL
    expected[30:] = _SENTINEL
    case.rows[1] = 2**30
    assert_close(_attend(case), expected)


@pytest.mark.parametrize("early", [False, True])
def test_a_captured_launch_follows_what_device_memory_holds(device: torch.device, early: bool) -> None:
    case = make_case([(40, 40), (1, 77), (17, 130), (0, 0)], device, padding_tokens=5)
    out = torch.empty_like(case.queries)
    replay = captured(lambda: _attend(case, out=out, pdl=early and device.type == "cuda"), device)
    for lines, used in (([(17, 130), (0, 0), (40, 40), (1, 77)], 58), ([(1, 1), (20, 112), (30, 130), (7, 0)], 51)):
        case.overwrite(make_case(lines, device, padding_tokens=5))
        out.fill_(_SENTINEL)
        replay()
        expected = case.expected()
        expected[used:] = _SENTINEL
        assert_close(out, expected)


def test_lines_of_one_token_can_be_left_to_the_decode_kernel(device: torch.device) -> None:
    case = make_case([(1, 60), (20, 20), (1, 1), (2, 40)], device)
    expected = case.expected()
    expected[0] = _SENTINEL
    expected[21] = _SENTINEL
    assert_close(_attend(case, skip_single=True), expected)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("queries", torch.zeros(4, 32), "queries must be"),
        ("keys", torch.zeros(4, 2, 16, 64), "keys must be"),
        ("values", torch.zeros(9, 2, 16, 32), "values must be"),
        ("query_start", torch.zeros(2, dtype=torch.int32), "query_start must be"),
        ("query_start", torch.zeros(3, dtype=torch.int64), "query_start must be int32"),
        ("rows", torch.zeros(2, 1, dtype=torch.int32), "rows must be"),
        ("window", -1, "window must be"),
    ],
)
def test_an_argument_that_does_not_fit_is_named(
    device: torch.device, field: str, value: Tensor | int, message: str
) -> None:
    case = make_case([(10, 20), (5, 30)], device)
    setattr(case, field, value.to(device) if isinstance(value, Tensor) else value)
    with pytest.raises(ValueError, match=message):
        _attend(case)


def test_an_index_tensor_with_gaps_is_refused(device: torch.device) -> None:
    case = make_case([(10, 20), (5, 30)], device)
    case.context_lens = torch.zeros(4, dtype=torch.int32, device=device)[::2]
    with pytest.raises(ValueError, match="context_lens must be contiguous"):
        _attend(case)


def test_a_tile_that_cannot_hold_a_group_is_refused(device: torch.device) -> None:
    case = make_case([(10, 20)], device, heads=(16, 1))
    with pytest.raises(ValueError, match="config: block_m must hold the 16 heads"):
        _attend(case, config=PrefillConfig(8, 32, 4, 2))
