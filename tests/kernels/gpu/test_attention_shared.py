"""Decode attention whose lines share prefixes, against plain torch, with NaN wherever nothing may be read."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from bough.kernels.gpu.attention_checks import PAGE_SIZE, AttentionShape
from bough.kernels.gpu.attention_decode import paged_decode_attention
from bough.kernels.gpu.attention_decode_split import decode_workspace
from bough.kernels.gpu.attention_shared import SharedConfig, SharedPrefixes, block_lines_of, shared_prefixes
from tests.kernels.gpu.attention_cases import (
    SENTINEL,
    AttentionCase,
    assert_close,
    attend_decodes,
    captured,
    decodes,
    make_case,
)

_MOST_BLOCKS = 6


@dataclass(frozen=True)
class Group:
    """Lines that begin with the pages of the first of them."""

    lines: list[int]
    pages: int


def share(case: AttentionCase, groups: list[Group]) -> None:
    """Give the lines of each group the first pages of its first line; what they had there becomes NaN."""
    for group in groups:
        rows = [int(case.rows[line]) for line in group.lines]
        pages = case.page_table[rows[0], : group.pages].clone()
        for row in rows[1:]:
            for cache in (case.keys, case.values):
                cache[case.page_table[row, : group.pages].long()] = float("nan")
            case.page_table[row, : group.pages] = pages


def indices(case: AttentionCase, groups: list[Group]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`lines`, `tokens`, `count` and `places` of `SharedPrefixes`; unused entries point far outside."""
    block_lines = block_lines_of(shape_of(case))
    lines = torch.full((_MOST_BLOCKS, block_lines), -1, dtype=torch.int32)
    tokens = torch.full((_MOST_BLOCKS,), 2**30, dtype=torch.int32)
    places = torch.full((len(case.context_lens),), -1, dtype=torch.int32)
    block = 0
    for group in groups:
        for first in range(0, len(group.lines), block_lines):
            for slot, line in enumerate(group.lines[first : first + block_lines]):
                lines[block, slot] = line
                places[line] = block * block_lines + slot
            tokens[block] = group.pages * PAGE_SIZE
            block += 1
    device = case.queries.device
    return lines.to(device), tokens.to(device), torch.tensor([block], dtype=torch.int32).to(device), places.to(device)


def shape_of(case: AttentionCase) -> AttentionShape:
    return AttentionShape(case.queries.shape[1], case.keys.shape[1], case.queries.shape[2])


def prefixes_of(
    case: AttentionCase, groups: list[Group], *, num_sms: int = 8, config: SharedConfig | None = None
) -> SharedPrefixes:
    prefixes = shared_prefixes(
        shape_of(case), case.queries.dtype, *indices(case, groups), num_sms=num_sms, config=config
    )
    prefixes.partials.fill_(float("nan"))
    prefixes.stats.fill_(float("nan"))
    return prefixes


GROUPS = [Group([1, 3, 4], 5), Group([0, 5], 2)]
CONTEXTS = (40, 100, 70, 81, 300, 33)


@pytest.mark.parametrize("num_splits", [1, 4])
@pytest.mark.parametrize("num_sms", [1, 8, 64])
def test_lines_that_share_prefixes_see_what_they_see_alone(device: torch.device, num_splits: int, num_sms: int) -> None:
    case = make_case(decodes(*CONTEXTS), device)
    share(case, GROUPS)
    prefixes = prefixes_of(case, GROUPS, num_sms=num_sms, config=SharedConfig(16, 4, 2, min_part_tokens=32))
    assert_close(attend_decodes(case, shared=prefixes, num_splits=num_splits), case.expected())


@pytest.mark.parametrize("group", [1, 3, 4, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_groups_of_heads_in_both_dtypes(device: torch.device, group: int, dtype: torch.dtype) -> None:
    case = make_case(decodes(*CONTEXTS), device, heads=(2 * group, 2), head_dim=64, dtype=dtype)
    share(case, GROUPS)
    assert_close(attend_decodes(case, shared=prefixes_of(case, GROUPS)), case.expected())


@pytest.mark.parametrize("head_dim", [16, 80, 128, 256])
def test_every_head_dimension(device: torch.device, head_dim: int) -> None:
    case = make_case(decodes(*CONTEXTS), device, head_dim=head_dim, dtype=torch.bfloat16)
    share(case, GROUPS)
    assert_close(attend_decodes(case, shared=prefixes_of(case, GROUPS)), case.expected())


def test_a_group_of_more_lines_than_a_block_takes_several(device: torch.device) -> None:
    group = Group(list(range(10)), 3)
    case = make_case(decodes(*range(50, 60)), device, heads=(32, 2))
    assert block_lines_of(shape_of(case)) == 4
    share(case, [group])
    assert_close(attend_decodes(case, shared=prefixes_of(case, [group])), case.expected())


def test_a_prefix_may_reach_up_to_the_newest_token(device: torch.device) -> None:
    group = Group([0, 1], 4)
    case = make_case(decodes(65, 66, 20), device)
    share(case, [group])
    assert_close(attend_decodes(case, shared=prefixes_of(case, [group]), num_splits=3), case.expected())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_long_prefix_has_more_parts_than_are_read_at_once(device: torch.device, dtype: torch.dtype) -> None:
    group = Group([0, 1, 2], 20)
    case = make_case(decodes(330, 340, 321), device, head_dim=128, heads=(8, 2), dtype=dtype)
    # what a part sees differs by much, so that sums are scaled again and again
    case.keys *= torch.linspace(0.2, 4.0, len(case.keys), device=device).view(-1, 1, 1, 1).to(dtype)
    share(case, [group])
    config = SharedConfig(16, 4, 2, min_part_tokens=16)
    assert_close(attend_decodes(case, shared=prefixes_of(case, [group], num_sms=64, config=config)), case.expected())


def test_padding_lines_are_left_alone_and_no_block_is_no_work(device: torch.device) -> None:
    case = make_case(decodes(40, 0, 70), device)
    out = attend_decodes(case, shared=prefixes_of(case, []))
    assert torch.all(out[1] == SENTINEL)
    out[1] = 0
    assert_close(out, case.expected())


def test_a_captured_launch_follows_the_prefixes_in_device_memory(device: torch.device) -> None:
    case, other = make_case(decodes(*CONTEXTS), device), make_case(decodes(*CONTEXTS), device)
    share(case, GROUPS)
    fewer = [Group([2, 4], 4)]
    share(other, fewer)
    prefixes = prefixes_of(case, GROUPS)
    out = torch.full_like(case.queries, SENTINEL)
    launch = captured(lambda: attend_decodes(case, shared=prefixes, out=out), device)
    launch()
    assert_close(out, case.expected())
    case.overwrite(other)
    for target, source in zip(
        (prefixes.lines, prefixes.tokens, prefixes.count, prefixes.places), indices(case, fewer), strict=True
    ):
        target.copy_(source)
    launch()
    assert_close(out, other.expected())


def test_prefixes_for_other_heads_or_with_a_window_are_refused(device: torch.device) -> None:
    case = make_case(decodes(*CONTEXTS), device)
    other = prefixes_of(make_case(decodes(*CONTEXTS), device, heads=(8, 1)), GROUPS)
    with pytest.raises(ValueError, match=r"lines make a block|other heads"):
        attend_decodes(case, shared=other)
    with pytest.raises(ValueError, match="exclude a window"):
        paged_decode_attention(
            case.queries,
            case.keys,
            case.values,
            case.page_table,
            case.rows,
            case.context_lens,
            scale=1.0,
            window=16,
            out=torch.empty_like(case.queries),
            workspace=decode_workspace(6, 4, 2, 32, 1, device),
            num_splits=1,
            shared=prefixes_of(case, GROUPS),
        )
