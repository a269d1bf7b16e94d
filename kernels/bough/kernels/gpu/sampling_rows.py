"""Sets the wide state of a row, on admission and after a retraction: token counts and bias."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = tl.constexpr(1024)


# Compiled once: rows and lengths of any alignment come, and admission must not wait for a compiler.
@triton.jit(do_not_specialize=["num_tokens", "num_prompt"], do_not_specialize_on_alignment=["row_ptr", "tokens_ptr"])
def _count_kernel(row_ptr, vocab_size, tokens_ptr, num_tokens, num_prompt):
    index = tl.program_id(0) * _BLOCK + tl.arange(0, _BLOCK)
    present = index < num_tokens
    tokens = tl.load(tokens_ptr + index, mask=present, other=-1)
    # An id that the vocabulary lacks has no place here.
    present = present & (tokens >= 0) & (tokens < vocab_size)
    sign = tl.full([_BLOCK], -(2**31), tl.int32)
    tl.atomic_or(row_ptr + tokens, sign, mask=present & (index < num_prompt), sem="relaxed")
    ones = tl.full([_BLOCK], 1, tl.int32)
    tl.atomic_add(row_ptr + tokens, ones, mask=present & (index >= num_prompt), sem="relaxed")


@triton.jit(do_not_specialize=["num_tokens"], do_not_specialize_on_alignment=["row_ptr", "tokens_ptr", "values_ptr"])
def _scatter_kernel(row_ptr, vocab_size, tokens_ptr, values_ptr, num_tokens):
    index = tl.program_id(0) * _BLOCK + tl.arange(0, _BLOCK)
    present = index < num_tokens
    tokens = tl.load(tokens_ptr + index, mask=present, other=-1)
    values = tl.load(values_ptr + index, mask=present, other=0.0)
    tl.store(row_ptr + tokens, values, mask=present & (tokens >= 0) & (tokens < vocab_size))


def _check(name: str, table: Tensor, dtype: torch.dtype, row: int, tokens: Tensor) -> None:
    if table.dim() != 2 or table.dtype != dtype or table.stride(1) != 1:
        raise ValueError(
            f"{name} is {tuple(table.shape)} of {table.dtype}; [R, V] of {dtype} with contiguous rows is accepted"
        )
    if not 0 <= row < table.shape[0]:
        raise ValueError(f"row is {row}; 0 to {table.shape[0] - 1} are accepted")
    if tokens.dim() != 1 or tokens.dtype != torch.int32 or not tokens.is_contiguous():
        raise ValueError(
            f"tokens are {tuple(tokens.shape)} of {tokens.dtype}; contiguous [n] of torch.int32 is accepted"
        )


def set_row_counts(counts: Tensor, row: int, tokens: Tensor, num_prompt: int) -> None:
    """Set a row of the counts behind the penalties; not for use inside a graph, since `row` is baked in.

    Args:
        counts: [R, V] int32; the row is zeroed, then each prompt token gets the sign bit and each produced token 1 for
            every time that it was produced.
        row: which.
        tokens: [n] int32 on the device, the prompt followed by what was produced; ids outside the vocabulary are
            passed over.
        num_prompt: how many of them are the prompt's.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    _check("counts", counts, torch.int32, row, tokens)
    if not 0 <= num_prompt <= tokens.shape[0]:
        raise ValueError(f"num_prompt is {num_prompt}; 0 to {tokens.shape[0]} are accepted")
    line = counts[row]
    line.zero_()
    if tokens.shape[0] > 0:
        grid = (triton.cdiv(tokens.shape[0], 1024),)
        _count_kernel[grid](line, counts.shape[1], tokens, tokens.shape[0], num_prompt)


def set_row_bias(bias: Tensor, row: int, tokens: Tensor, values: Tensor) -> None:
    """Set a row of the logit bias; not for use inside a graph.

    Args:
        bias: [R, V] float32; the row is zeroed first.
        row: which.
        tokens: [n] int32 on the device, distinct; ids outside the vocabulary are passed over.
        values: [n] float32: what is added to the logit of each.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    _check("bias", bias, torch.float32, row, tokens)
    if values.dtype != torch.float32 or values.shape != tokens.shape or not values.is_contiguous():
        raise ValueError(
            f"values are {tuple(values.shape)} of {values.dtype}; contiguous {tuple(tokens.shape)} of torch.float32 "
            "is accepted"
        )
    line = bias[row]
    line.zero_()
    if tokens.shape[0] > 0:
        grid = (triton.cdiv(tokens.shape[0], 1024),)
        _scatter_kernel[grid](line, bias.shape[1], tokens, values, tokens.shape[0])
