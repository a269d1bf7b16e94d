"""Functions that several sampling kernels call: the order of floats, weights, searches."""

from __future__ import annotations

import triton
import triton.language as tl

from bough.kernels.gpu import sampling_types as types

CHUNK = tl.constexpr(types.CHUNK)
BLOCK = tl.constexpr(types.BLOCK)
NUM_PIVOTS = tl.constexpr(types.NUM_PIVOTS)
CAPACITY = tl.constexpr(types.CAPACITY)
MAX_STOP_IDS = tl.constexpr(types.MAX_STOP_IDS)

DRAW = tl.constexpr(int(types.SamplingFlag.DRAW))
RANKED = tl.constexpr(int(types.SamplingFlag.RANKED))
FLOORED = tl.constexpr(int(types.SamplingFlag.FLOORED))
PENALIZED = tl.constexpr(int(types.SamplingFlag.PENALIZED))
BIASED = tl.constexpr(int(types.SamplingFlag.BIASED))
MASKED = tl.constexpr(int(types.SamplingFlag.MASKED))
LOGPROBS = tl.constexpr(int(types.SamplingFlag.LOGPROBS))

INF = tl.constexpr(float("inf"))
TINY = tl.constexpr(1.1754943508222875e-38)
"""The smallest normal float32: what weighs less is never drawn."""


@triton.jit
def order_key(x):
    """The int32 whose order is that of the float32 x; NaN lies outside the images of the infinities."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def from_key(key):
    """The float32 of an int32 (or int64) key."""
    key = key.to(tl.int32)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def weight_of(x, line_max, scale):
    """`exp((x - line_max) / temperature)`; every kernel computes it by these same operations, so none disagrees."""
    return tl.exp((x - line_max) * scale)


@triton.jit
def load_chunk_max(chunk_max_ptr, line, num_chunks, PADDED_CHUNKS: tl.constexpr):
    """[PADDED_CHUNKS] largest logit of each chunk of a line; -inf past the end."""
    chunks = tl.arange(0, PADDED_CHUNKS)
    return tl.load(chunk_max_ptr + line * num_chunks + chunks, mask=chunks < num_chunks, other=-INF)


@triton.jit
def is_adjusted(flags, output_position, min_tokens):
    """Whether the logits of a line are changed before sampling."""
    return ((flags & (PENALIZED | BIASED | MASKED)) != 0) | (output_position < min_tokens)
