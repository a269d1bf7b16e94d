"""What lies between the projection and the attention: norms of query and key, rotation, the write to the cache."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.norm import inverse_rms, magnitudes, pdl_options, require, scale_rounded

PAGE_SIZE = 16


class RopeConfig(NamedTuple):
    """How the work is cut; it changes no bit of the result."""

    heads: int
    """Of a program; a power of two."""
    num_warps: int


def default_config(num_tokens: int, dim: int) -> RopeConfig:
    """Few tokens: many programs of one warp. Many: fewer, to save on the reading of positions and angles.

    With fewer than two threads to a column the compiler gives angles and weights threads of their own, and passes
    what it read of the heads, and their sums, through shared memory to join them.
    """
    if num_tokens <= 16:
        return RopeConfig(1, 1)
    return RopeConfig(16, max(triton.next_power_of_2(dim // 2) // 16, 4))


@triton.jit
def _norm_rope_store_kernel(
    qkv_ptr,
    positions_ptr,
    slots_ptr,
    rotary_ptr,
    query_norm_ptr,
    key_norm_ptr,
    eps,
    keys_ptr,
    values_ptr,
    queries_ptr,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    DIM: tl.constexpr,
    HALF_BLOCK: tl.constexpr,
    GROUP: tl.constexpr,
    PAGE: tl.constexpr,
    NORM_QUERY: tl.constexpr,
    NORM_KEY: tl.constexpr,
    PDL: tl.constexpr,
):
    """One program: one token, GROUP heads, each as two halves [GROUP, HALF_BLOCK]; heads are queries, keys, values."""
    HALF: tl.constexpr = DIM // 2
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * GROUP + tl.arange(0, GROUP)[:, None]
    column = tl.arange(0, HALF_BLOCK)[None, :]
    inside = (head < HEADS + 2 * KV_HEADS) & (column < HALF)
    is_query = head < HEADS
    is_value = head >= HEADS + KV_HEADS
    dtype = qkv_ptr.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    position = tl.load(positions_ptr + token)
    slot = tl.load(slots_ptr + token)
    source = qkv_ptr + token * ((HEADS + 2 * KV_HEADS) * DIM) + head * DIM + column
    first = tl.load(source, mask=inside, other=0.0)
    second = tl.load(source + HALF, mask=inside, other=0.0)

    # without a norm and for values: what was read goes on
    wide_first, wide_second = magnitudes(first), magnitudes(second)
    first, second = first.to(tl.float32), second.to(tl.float32)
    squares = tl.sum(wide_first * wide_first + wide_second * wide_second, axis=1, keep_dims=True)
    inverse = inverse_rms(squares, eps, DIM)
    if NORM_QUERY:
        weight_first = tl.load(query_norm_ptr + column, mask=column < HALF, other=0.0).to(tl.float32)
        weight_second = tl.load(query_norm_ptr + HALF + column, mask=column < HALF, other=0.0).to(tl.float32)
        first = tl.where(is_query, scale_rounded(first, inverse, weight_first, dtype), first)
        second = tl.where(is_query, scale_rounded(second, inverse, weight_second, dtype), second)
    if NORM_KEY:
        is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
        weight_first = tl.load(key_norm_ptr + column, mask=column < HALF, other=0.0).to(tl.float32)
        weight_second = tl.load(key_norm_ptr + HALF + column, mask=column < HALF, other=0.0).to(tl.float32)
        first = tl.where(is_key, scale_rounded(first, inverse, weight_first, dtype), first)
        second = tl.where(is_key, scale_rounded(second, inverse, weight_second, dtype), second)

    cos = tl.load(rotary_ptr + position * DIM + column, mask=column < HALF, other=0.0)
    sin = tl.load(rotary_ptr + position * DIM + HALF + column, mask=column < HALF, other=0.0)
    out_first = tl.where(is_value, first, first * cos - second * sin).to(dtype)
    out_second = tl.where(is_value, second, second * cos + first * sin).to(dtype)

    target = queries_ptr + token * (HEADS * DIM) + head * DIM + column
    tl.store(target, out_first, mask=inside & is_query)
    tl.store(target + HALF, out_second, mask=inside & is_query)
    kept = inside & (slot >= 0)
    kv_head = tl.where(is_value, head - HEADS - KV_HEADS, head - HEADS)
    offset = ((slot // PAGE) * KV_HEADS + kv_head) * (PAGE * DIM) + (slot % PAGE) * DIM + column
    is_key = (head >= HEADS) & (head < HEADS + KV_HEADS)
    tl.store(keys_ptr + offset, out_first, mask=kept & is_key)
    tl.store(keys_ptr + offset + HALF, out_second, mask=kept & is_key)
    tl.store(values_ptr + offset, out_first, mask=kept & is_value)
    tl.store(values_ptr + offset + HALF, out_second, mask=kept & is_value)


def norm_rope_store(
    qkv: Tensor,
    positions: Tensor,
    slots: Tensor,
    rotary: Tensor,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    keys: Tensor,
    values: Tensor,
    num_heads: int,
    *,
    out: Tensor | None = None,
    config: RopeConfig | None = None,
    pdl: bool = False,
) -> Tensor:
    """Norm the heads (Qwen3), rotate queries and keys, write keys and values to their pages; return the queries.

    Args:
        qkv: [T, (H + 2 * KV) * D], contiguous: queries, keys, values.
        positions: [T] int64, rows of `rotary`; not checked.
        slots: [T] int64, page * 16 + offset; -1 writes nothing. Not checked otherwise.
        rotary: [max_pos, D] float32, cosines in the first half, sines in the second (Su et al. 2021; the halves of a
            head are rotated against one another, as Hugging Face checkpoints expect).
        query_norm: [D] weight of each query head's RMS norm, or None for no norm.
        key_norm: the same for keys.
        eps: of both norms.
        keys: [pages, KV, 16, D], dtype of qkv.
        values: [pages, KV, 16, D], dtype of qkv.
        num_heads: H.
        out: [T, H * D] to write the queries to; a new tensor if None.
        config: how to cut the work; the default for the shape if None.
        pdl: launch as a programmatic dependent of the kernel before it in the stream.

    Raises:
        ValueError: a shape, dtype or layout that the kernel does not take.
    """
    require(keys.dim() == 4 and keys.shape[2] == PAGE_SIZE, f"keys must be [pages, KV, {PAGE_SIZE}, D]")
    require(values.shape == keys.shape, "values must have the shape of keys")
    require(keys.is_contiguous() and values.is_contiguous(), "keys and values must be contiguous")
    require(keys.dtype == qkv.dtype and values.dtype == qkv.dtype, "keys and values must have the dtype of qkv")
    num_tokens, kv_heads, dim = qkv.shape[0], keys.shape[1], keys.shape[3]
    all_heads = num_heads + 2 * kv_heads
    require(qkv.shape == (num_tokens, all_heads * dim) and qkv.is_contiguous(), "qkv must be [T, (H + 2 * KV) * D]")
    require(dim % 2 == 0, "a head must have an even number of values")
    for name, tensor in (("positions", positions), ("slots", slots)):
        require(tensor.shape == (num_tokens,) and tensor.dtype == torch.int64, f"{name} must be [T] int64")
        require(tensor.is_contiguous(), f"{name} must be contiguous")
    require(rotary.dim() == 2 and rotary.shape[1] == dim, "rotary must be [max_pos, D]")
    require(rotary.dtype == torch.float32 and rotary.is_contiguous(), "rotary must be contiguous float32")
    for norm in (query_norm, key_norm):
        require(norm is None or (norm.shape == (dim,) and norm.dtype == qkv.dtype), "a norm must be [D] like qkv")
    if out is None:
        out = torch.empty(num_tokens, num_heads * dim, dtype=qkv.dtype, device=qkv.device)
    require(out.shape == (num_tokens, num_heads * dim) and out.dtype == qkv.dtype, "out must be [T, H * D] like qkv")
    require(out.is_contiguous(), "out must be contiguous")
    if num_tokens == 0:
        return out
    config = config or default_config(num_tokens, dim)
    _norm_rope_store_kernel[(num_tokens, triton.cdiv(all_heads, config.heads))](
        qkv,
        positions,
        slots,
        rotary,
        qkv if query_norm is None else query_norm,
        qkv if key_norm is None else key_norm,
        eps,
        keys,
        values,
        out,
        HEADS=num_heads,
        KV_HEADS=kv_heads,
        DIM=dim,
        HALF_BLOCK=triton.next_power_of_2(dim // 2),
        GROUP=config.heads,
        PAGE=PAGE_SIZE,
        NORM_QUERY=query_norm is not None,
        NORM_KEY=key_norm is not None,
        PDL=pdl,
        num_warps=config.num_warps,
        **pdl_options(pdl),
    )
    return out
