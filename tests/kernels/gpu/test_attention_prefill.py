"""Paged causal attention of chunks against plain torch, with NaN wherever nothing may be read."""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, Unpack

import pytest
import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import AttentionShape
from bough.kernels.gpu.attention_prefill import paged_prefill_attention
from bough.kernels.gpu.attention_prefill_plan import WORDS, PrefillPlan, choose_parts, plan_prefill
from bough.kernels.gpu.attention_prefill_split import (
    UNCUT,
    PrefillConfig,
    PrefillSplits,
    PrefillWorkspace,
    check_workspace,
    choose_prefill_config,
    choose_prefill_splits,
    prefill_config,
    prefill_workspace,
)
from tests.kernels.gpu.attention_cases import (
    AttentionCase,
    assert_close,
    captured,
    make_case,
    mended_interpreter,
    plan_of,
)

_SENTINEL = 7.0
# Chunks that begin a row, go on after a cached prefix, hold one token, or none; lengths around blocks and pages.
_MIXED = [(40, 40), (1, 77), (17, 130), (0, 0), (33, 33), (1, 1), (64, 200)]


def _workspace(case: AttentionCase) -> PrefillWorkspace:
    """A workspace for every launch of the case's size; what it holds before must not show."""
    _, num_heads, head_dim = case.queries.shape
    shape = AttentionShape(num_heads, case.keys.shape[1], head_dim)
    workspace = prefill_workspace(shape, len(case.rows), case.queries.dtype, 132, case.queries.device)
    for partial in (workspace.partials, workspace.tops, workspace.sums):
        partial.fill_(float("nan"))
    return workspace


class _Options(TypedDict, total=False):
    pdl: bool
    workspace: PrefillWorkspace | None
    min_split_tokens: int


def _attend(
    case: AttentionCase,
    *,
    plan: PrefillPlan | None = None,
    splits: PrefillSplits = UNCUT,
    config: PrefillConfig | None = None,
    out: Tensor | None = None,
    **options: Unpack[_Options],
) -> Tensor:
    options.setdefault("min_split_tokens", 16)
    with mended_interpreter():
        plan = plan_of(case, splits=splits, config=config) if plan is None else plan
        return paged_prefill_attention(
            case.queries,
            case.keys,
            case.values,
            case.page_table,
            plan,
            scale=case.scale,
            window=case.window,
            out=torch.full_like(case.queries, _SENTINEL) if out is None else out,
            **options,
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


@pytest.mark.parametrize("group", [2, 4])
@pytest.mark.parametrize("few", [False, True])
def test_tuned_tiles_over_many_blocks_whole_and_in_parts(device: torch.device, few: bool, group: int) -> None:
    case = make_case([(70, 1500), (40, 40)], device, heads=(group, 1), head_dim=128, dtype=torch.bfloat16)
    config = prefill_config(128, torch.bfloat16, few=few)
    expected = case.expected()
    assert_close(_attend(case, config=config), expected)
    assert_close(_attend(case, config=config, splits=PrefillSplits(2), workspace=_workspace(case)), expected)


@pytest.mark.parametrize("num_splits", [2, 3, 8])
def test_parts_equal_the_reference_across_page_and_block_boundaries(device: torch.device, num_splits: int) -> None:
    lines = [*_MIXED, (1, 0), (5, 16), (16, 128), (3, 129), (20, 65)]
    case = make_case(lines, device, padding_tokens=3)
    expected = case.expected()
    expected[156] = _SENTINEL
    expected[201:] = _SENTINEL
    workspace = _workspace(case)
    assert_close(_attend(case, splits=PrefillSplits(num_splits), workspace=workspace), expected)
    assert not workspace.counters.any()


@pytest.mark.parametrize("config", [PrefillConfig(64, 64, 4, 2), PrefillConfig(64, 16, 4, 1)])
def test_parts_that_end_within_the_diagonal_leave_rows_that_saw_nothing(
    device: torch.device, config: PrefillConfig
) -> None:
    case = make_case([(90, 90), (60, 250), (45, 135)], device, dtype=torch.bfloat16, head_dim=80)
    assert_close(_attend(case, splits=PrefillSplits(4), workspace=_workspace(case), config=config), case.expected())


@pytest.mark.parametrize("window", [1, 33, 100, 1000])
def test_parts_of_what_a_window_shows(device: torch.device, window: int) -> None:
    case = make_case([(1, 150), (40, 40), (50, 233), (0, 0), (70, 333)], device, window=window)
    assert_close(_attend(case, splits=PrefillSplits(4), workspace=_workspace(case)), case.expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_context_too_short_to_be_cut_has_the_bits_of_one_part(device: torch.device, dtype: torch.dtype) -> None:
    case = make_case([(17, 64), (40, 300), (1, 50), (33, 33)], device, dtype=dtype)
    whole = _attend(case)
    parts = _attend(case, splits=PrefillSplits(4), min_split_tokens=64, workspace=_workspace(case))
    assert_close(parts, case.expected())
    short = [*range(17), *range(57, 91)]
    assert torch.equal(parts[short], whole[short])


def test_a_split_result_depends_on_its_operands_only(device: torch.device) -> None:
    case = make_case([(40, 300), (17, 220)], device, dtype=torch.bfloat16)
    workspace = _workspace(case)
    first = _attend(case, splits=PrefillSplits(5), workspace=workspace)
    for _ in range(3 if device.type == "cuda" else 1):
        assert torch.equal(_attend(case, splits=PrefillSplits(5), workspace=workspace), first)


def test_programs_serve_more_blocks_than_there_are_programs(device: torch.device) -> None:
    case = make_case([(3, 20 + 9 * line) for line in range(12)], device)
    assert_close(_attend(case), case.expected())
    assert_close(_attend(case, splits=PrefillSplits(2), workspace=_workspace(case)), case.expected())


def test_a_captured_launch_cuts_what_is_long_at_each_replay(device: torch.device) -> None:
    case = make_case([(40, 40), (1, 77), (17, 330), (0, 0)], device, padding_tokens=5)
    out = torch.empty_like(case.queries)
    workspace = _workspace(case)
    replay = captured(lambda: _attend(case, out=out, splits=PrefillSplits(4), workspace=workspace), device)
    for lines, used in (([(17, 330), (0, 0), (40, 40), (1, 77)], 58), ([(1, 1), (20, 112), (30, 330), (7, 0)], 51)):
        case.overwrite(make_case(lines, device, padding_tokens=5))
        out.fill_(_SENTINEL)
        replay()
        expected = case.expected()
        expected[used:] = _SENTINEL
        assert_close(out, expected)


def test_a_launch_that_fills_the_gpu_equals_the_reference_whatever_its_chunks_are(device: torch.device) -> None:
    out_of_one_graph = PrefillSplits(most=9, wave=24)
    for lines in ([(40, 330)], [(40, 40), (1, 77), (17, 330), (0, 0)], [(3, 20 + 9 * line) for line in range(12)]):
        case = make_case(lines, device, padding_tokens=5)
        workspace = _workspace(case)
        expected = case.expected()
        expected[sum(tokens for tokens, _ in lines) :] = _SENTINEL
        assert_close(_attend(case, splits=out_of_one_graph, workspace=workspace), expected)
        assert not workspace.counters.any()


def test_a_plan_names_the_blocks_of_all_chunks_once(device: torch.device) -> None:
    rows = torch.tensor([7, 3, 9, 5, 1], dtype=torch.int32, device=device)
    query_start = torch.tensor([0, 1, 81, 81, 90, 93], dtype=torch.int32, device=device)
    # a decode, a chunk of 80 behind 20, a chunk without tokens, one of 9, and padding
    contexts = torch.tensor([0, 100, 50, 9, 0], dtype=torch.int32, device=device)
    shape, config = AttentionShape(4, 2, 32), PrefillConfig(64, 64, 4, 2)
    with mended_interpreter():
        plan = plan_prefill(
            rows,
            query_start,
            contexts,
            num_tokens=93,
            shape=shape,
            dtype=torch.float32,
            config=config,
            splits=PrefillSplits(3),
        )
    words = plan.words.view(-1, WORDS.value).tolist()
    assert words[0][:3] == [4 * 3, 3, 4]
    assert [block[:5] for block in words[1:5]] == [
        [3, 100, 1, 80, 0],
        [3, 100, 1, 80, 32],
        [3, 100, 1, 80, 64],
        [5, 9, 81, 9, 0],
    ]


def test_one_plan_serves_the_launches_of_all_layers(device: torch.device) -> None:
    case = make_case(_MIXED, device)
    with mended_interpreter():
        plan = plan_of(case, splits=PrefillSplits(4, 24))
    workspace = _workspace(case)
    for _ in range(2):
        assert_close(_attend(case, plan=plan, workspace=workspace), case.expected())
    with pytest.raises(ValueError, match=r"plan\.words must be"):
        _attend(case, plan=replace(plan, words=plan.words[:-8]), workspace=workspace)
    with pytest.raises(ValueError, match="plan is for 3 tokens"):
        _attend(case, plan=replace(plan, num_tokens=3), workspace=workspace)


@triton.jit
def _write_parts(out_ptr, programs, most, wave, keys):  # type: ignore[no-untyped-def]  # a kernel's parameters have none
    tl.store(out_ptr, choose_parts(programs, most, wave, keys))


@pytest.mark.parametrize(
    ("programs", "most", "wave", "keys", "parts"),
    [
        # what is short is not worth adding up
        (8, 16, 264, 8, 1),
        (112, 8, 264, 8, 1),
        (8, 16, 264, 16, 4),
        # and what is long not worth as many parts as fill the GPU
        (16, 16, 264, 128, 8),
        (32, 16, 264, 128, 8),
        (32, 5, 264, 128, 4),
        # a second wave is not worth it
        (64, 16, 264, 128, 4),
        (128, 8, 264, 128, 2),
        (256, 4, 264, 128, 1),
        # but where one is needed anyway it may be filled
        (160, 4, 264, 1024, 3),
    ],
)
def test_parts_are_as_many_as_make_a_launch_shortest(
    device: torch.device, programs: int, most: int, wave: int, keys: int, parts: int
) -> None:
    found = torch.zeros(1, dtype=torch.int32, device=device)
    _write_parts[(1,)](found, programs, most, wave, keys)
    assert found.item() == parts


def test_a_launch_has_at_most_as_many_parts_as_its_workspace_holds() -> None:
    narrow, wide = PrefillConfig(64, 64, 4, 3), PrefillConfig(128, 128, 8, 3)
    assert choose_prefill_splits(256, 8, 2, narrow, 132) == PrefillSplits(most=16, wave=264)
    assert choose_prefill_splits(512, 8, 4, narrow, 132) == PrefillSplits(most=4, wave=264)
    assert choose_prefill_splits(640, 8, 4, wide, 132) == PrefillSplits(most=3, wave=132)
    assert choose_prefill_splits(8192, 8, 4, wide, 132).most == 1
    with pytest.raises(ValueError, match="num_tokens must be positive"):
        choose_prefill_splits(0, 8, 4, narrow, 132)


@pytest.mark.parametrize("heads", [(16, 8), (32, 8), (12, 4), (16, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_workspace_holds_every_launch_that_is_cut(heads: tuple[int, int], dtype: torch.dtype) -> None:
    shape = AttentionShape(*heads, 128)
    max_lines, num_sms = 256, 132
    workspace = prefill_workspace(shape, max_lines, dtype, num_sms, torch.device("cpu"))
    assert workspace.partials.numel() * 4 < 40e6
    for num_tokens in range(1, 2049):
        config = choose_prefill_config(shape, num_tokens, dtype)
        splits = choose_prefill_splits(num_tokens, shape.num_kv_heads, shape.group, config, num_sms)
        num_blocks = num_tokens // (config.block_m // shape.group) + max_lines
        check_workspace(workspace, shape, num_tokens, num_blocks, splits, torch.device("cpu"))


@pytest.mark.parametrize("num_splits", [0, 17])
def test_a_number_of_parts_out_of_range_is_refused(device: torch.device, num_splits: int) -> None:
    case = make_case([(10, 20)], device)
    with pytest.raises(ValueError, match=r"splits\.most must be 1 to 16"):
        _attend(case, splits=PrefillSplits(num_splits), workspace=_workspace(case))


def test_a_workspace_that_is_too_small_is_refused(device: torch.device) -> None:
    case = make_case([(10, 20), (5, 30)], device)
    workspace = _workspace(case)
    for small in (
        None,
        replace(workspace, partials=workspace.partials[: 3 * 15 * 4 * 32 - 1]),
        replace(workspace, tops=workspace.tops[: 3 * 15 * 4 - 1]),
        replace(workspace, sums=workspace.sums[: 3 * 15 * 4 - 1]),
        replace(workspace, counters=workspace.counters[:3]),
    ):
        with pytest.raises(ValueError, match="workspace is too small for 15 tokens in 3 parts"):
            _attend(case, splits=PrefillSplits(3), workspace=small)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("queries", torch.zeros(15, 3, 32), "queries: 3 heads over 2"),
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
