"""Heads of one token as they come from the projection, normed and rotated in registers on their way into attention.

The same arithmetic as `bough.kernels.gpu.rope`, which does it for a whole step and by way of memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import require
from bough.kernels.gpu.norm import inverse_rms, magnitudes, scale_rounded


@dataclass(frozen=True)
class HeadOperands:
    """What turns projected heads into queries and keys."""

    rotary: Tensor
    """[max_pos, D] float32, cosines in the first half, sines in the second."""
    query_norm: Tensor | None
    """[D] weight of each query head's RMS norm."""
    key_norm: Tensor | None
    eps: float

    def check(self, head_dim: int, dtype: torch.dtype) -> None:
        """Raise ValueError where something does not fit heads of that size and dtype."""
        require(self.rotary.dim() == 2 and self.rotary.shape[1] == head_dim, f"rotary must be [max_pos, {head_dim}]")
        require(self.rotary.dtype == torch.float32 and self.rotary.is_contiguous(), "rotary must be contiguous float32")
        for name, norm in (("query_norm", self.query_norm), ("key_norm", self.key_norm)):
            fits = norm is None or (norm.shape == (head_dim,) and norm.dtype == dtype)
            require(fits, f"{name} must be [{head_dim}] {dtype}")


@triton.jit
def _inverses(x_ptr, eps, HEADS: tl.constexpr, HEADS_POW2: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """1 / RMS [HEADS_POW2] of heads that lie behind one another."""
    heads = tl.arange(0, HEADS_POW2)[:, None]
    dims = tl.arange(0, BLOCK_D)[None, :]
    x = tl.load(x_ptr + heads * HEAD_DIM + dims, mask=(heads < HEADS) & (dims < HEAD_DIM), other=0.0)
    wide = magnitudes(x)
    return inverse_rms(tl.sum(wide * wide, axis=1), eps, HEAD_DIM)


@triton.jit
def rotated_heads(
    x_ptr, rotary_ptr, norm_ptr, position, eps,
    HEADS: tl.constexpr, HEADS_POW2: tl.constexpr, ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    NORM: tl.constexpr,
):  # fmt: skip
    """[ROWS, BLOCK_D] of HEADS heads from x_ptr on, normed and rotated to position, in the dtype of x; others are 0."""
    HALF: tl.constexpr = HEAD_DIM // 2
    dtype = x_ptr.dtype.element_ty
    rows = tl.arange(0, ROWS)
    dims = tl.arange(0, BLOCK_D)
    in_first = dims < HALF
    partner = tl.where(in_first, dims + HALF, dims - HALF)
    inside = dims < HEAD_DIM
    real = (rows < HEADS)[:, None] & inside[None, :]
    at = x_ptr + rows[:, None] * HEAD_DIM
    x = tl.load(at + dims[None, :], mask=real, other=0.0).to(tl.float32)
    other = tl.load(at + partner[None, :], mask=real, other=0.0).to(tl.float32)
    if NORM:
        inverse = _inverses(x_ptr, eps, HEADS, HEADS_POW2, HEAD_DIM, BLOCK_D)
        if ROWS != HEADS_POW2:
            # Squares are summed for the real heads alone: float64 is slow to come by.
            same = rows[:, None] == tl.arange(0, HEADS_POW2)[None, :]
            inverse = tl.sum(tl.where(same, inverse[None, :], 0.0), axis=1)
        weight = tl.load(norm_ptr + dims, mask=inside, other=0.0).to(tl.float32)[None, :]
        partner_weight = tl.load(norm_ptr + partner, mask=inside, other=0.0).to(tl.float32)[None, :]
        x = scale_rounded(x, inverse[:, None], weight, dtype)
        other = scale_rounded(other, inverse[:, None], partner_weight, dtype)
    angles = rotary_ptr + position * HEAD_DIM + tl.where(in_first, dims, dims - HALF)
    cos = tl.load(angles, mask=inside, other=0.0)[None, :]
    sin = tl.load(angles + HALF, mask=inside, other=0.0)[None, :]
    return tl.where(in_first[None, :], x * cos - other * sin, x * cos + other * sin).to(dtype)


@triton.jit
def new_key_value(
    token_ptr, rotary_ptr, norm_ptr, keys_ptr, values_ptr, slot, position, kv_head, eps,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Write a token's key and value of one head to their slot (offset of the head's D values); both [1, BLOCK_D]."""
    dims = tl.arange(0, BLOCK_D)[None, :]
    inside = dims < HEAD_DIM
    key = rotated_heads(
        token_ptr + (HEADS + kv_head) * HEAD_DIM, rotary_ptr, norm_ptr, position, eps,
        1, 1, 1, HEAD_DIM, BLOCK_D, NORM,
    )  # fmt: skip
    value = tl.load(token_ptr + (HEADS + KV_HEADS + kv_head) * HEAD_DIM + dims, mask=inside, other=0.0)
    tl.store(keys_ptr + slot + dims, key, mask=inside)
    tl.store(values_ptr + slot + dims, value, mask=inside)
    return key, value
