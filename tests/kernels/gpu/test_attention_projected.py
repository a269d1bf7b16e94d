"""Decode attention that norms, rotates and stores the new token itself, against the kernels that do so one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from bough.kernels.gpu.attention_checks import PAGE_SIZE
from bough.kernels.gpu.attention_decode import projected_decode_attention
from bough.kernels.gpu.attention_decode_split import decode_workspace
from bough.kernels.gpu.attention_heads import HeadOperands
from bough.kernels.gpu.rope import norm_rope_store
from tests.kernels.gpu.attention_cases import AttentionCase, assert_close, make_case, mended_interpreter

_SENTINEL = 7.0
_MAX_POSITION = 1024


def _operands(case: AttentionCase, *, norms: bool = True) -> HeadOperands:
    head_dim, device = case.queries.shape[2], case.queries.device
    random = torch.Generator().manual_seed(1)
    angles = torch.rand(_MAX_POSITION, head_dim // 2, generator=random) * 6.3
    rotary = torch.cat((angles.cos(), angles.sin()), dim=1).to(device)
    query_norm, key_norm = (
        (torch.rand(head_dim, generator=random) + 0.5).to(device, case.queries.dtype) if norms else None
        for _ in range(2)
    )
    return HeadOperands(rotary=rotary, query_norm=query_norm, key_norm=key_norm, eps=1e-6)


def _projected(case: AttentionCase) -> Tensor:
    num_lines, num_heads, head_dim = case.queries.shape
    width = (num_heads + 2 * case.keys.shape[1]) * head_dim
    random = torch.Generator().manual_seed(2)
    return torch.randn(num_lines, width, generator=random).to(case.queries.device, case.queries.dtype)


def _slots(case: AttentionCase) -> Tensor:
    last = case.context_lens.long() - 1
    pages = case.page_table[case.rows.long().clamp(max=len(case.page_table) - 1), (last // PAGE_SIZE).clamp(min=0)]
    return torch.where(last >= 0, pages * PAGE_SIZE + last % PAGE_SIZE, -1)


def _stored_apart(case: AttentionCase, projected: Tensor, heads: HeadOperands) -> AttentionCase:
    """The case with the new tokens stored and turned into queries by the kernel for it."""
    case = replace(case, keys=case.keys.clone(), values=case.values.clone())
    positions = (case.context_lens.long() - 1).clamp(min=0)
    with mended_interpreter():
        queries = norm_rope_store(
            projected, positions, _slots(case), heads.rotary, heads.query_norm, heads.key_norm, heads.eps,
            case.keys, case.values, case.queries.shape[1],
        )  # fmt: skip
    return replace(case, queries=queries.view(case.queries.shape))


def _check(case: AttentionCase, *, num_splits: int = 1, norms: bool = True) -> None:
    heads, projected = _operands(case, norms=norms), _projected(case)
    apart = _stored_apart(case, projected, heads)
    slots = _slots(case)
    for cache in (case.keys, case.values):  # nobody may read the new token's slot
        for slot in slots[slots >= 0].tolist():
            cache[slot // PAGE_SIZE, :, slot % PAGE_SIZE] = float("nan")
    num_lines, num_heads, head_dim = case.queries.shape
    workspace = decode_workspace(num_lines, num_heads, case.keys.shape[1], head_dim, num_splits, projected.device)
    with mended_interpreter():
        out = projected_decode_attention(
            projected, case.keys, case.values, case.page_table, case.rows, case.context_lens,
            heads=heads, scale=case.scale, window=case.window, out=torch.full_like(case.queries, _SENTINEL),
            workspace=workspace, num_splits=num_splits, min_split_tokens=16,
        )  # fmt: skip
    expected = apart.expected()
    expected[case.context_lens == 0] = _SENTINEL
    assert_close(out, expected)
    torch.testing.assert_close(case.keys, apart.keys, equal_nan=True)
    torch.testing.assert_close(case.values, apart.values, equal_nan=True, rtol=0, atol=0)
    assert not workspace.counters.any()


def _decodes(*contexts: int) -> list[tuple[int, int]]:
    return [(1, context) for context in contexts]


@pytest.mark.parametrize("num_splits", [1, 3, 4])
def test_one_launch_equals_two_across_page_and_split_boundaries(device: torch.device, num_splits: int) -> None:
    _check(make_case(_decodes(1, 2, 15, 16, 17, 32, 33, 49, 64, 65, 97, 257, 700), device), num_splits=num_splits)


@pytest.mark.parametrize("group", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("norms", [False, True])
def test_heads_of_every_group_with_and_without_norms(device: torch.device, group: int, norms: bool) -> None:
    _check(make_case(_decodes(5, 90), device, heads=(2 * group, 2)), num_splits=3, norms=norms)


@pytest.mark.parametrize("head_dim", [16, 64, 80, 96, 128, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_head_dimension_in_both_dtypes(device: torch.device, head_dim: int, dtype: torch.dtype) -> None:
    _check(make_case(_decodes(1, 77, 130), device, head_dim=head_dim, dtype=dtype), num_splits=2)


@pytest.mark.parametrize("window", [1, 16, 33, 1000])
@pytest.mark.parametrize("num_splits", [1, 3])
def test_a_window_sees_the_new_token_and_what_lies_just_before(
    device: torch.device, window: int, num_splits: int
) -> None:
    _check(make_case(_decodes(1, 16, 17, 40, 100, 233), device, window=window), num_splits=num_splits)


@pytest.mark.parametrize("num_splits", [1, 2])
def test_padding_lines_neither_write_nor_read(device: torch.device, num_splits: int) -> None:
    _check(make_case(_decodes(70, 0, 33, 0), device), num_splits=num_splits)


def test_operands_that_do_not_fit_are_refused(device: torch.device) -> None:
    case = make_case(_decodes(5), device)
    heads, projected = _operands(case), _projected(case)
    workspace = decode_workspace(1, 4, 2, 32, 1, device)

    def attend(projected: Tensor, heads: HeadOperands) -> None:
        projected_decode_attention(
            projected, case.keys, case.values, case.page_table, case.rows, case.context_lens,
            heads=heads, scale=1.0, window=None, out=case.queries, workspace=workspace, num_splits=1,
        )  # fmt: skip

    with pytest.raises(ValueError, match="projected must be"):
        attend(projected[:, 1:], heads)
    with pytest.raises(ValueError, match="rotary must be"):
        attend(projected, replace(heads, rotary=heads.rotary[:, 2:]))
    with pytest.raises(ValueError, match="key_norm must be"):
        attend(projected, replace(heads, key_norm=heads.rotary[0, :8]))
