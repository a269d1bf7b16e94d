"""Where the cut of top-k and top-p lies: a bracket that holds few tokens, found by one sample and one pass.

No vocabulary is sorted. Both filters ask for the largest logit c such that the tokens from c on reach a target: a count
(k) or a mass (top_p of the sum of the weights). Ties at c stay by themselves. A line is in one of four modes:

- ALL: nothing to search (no filter, or min-p alone);
- BOUNDED: k is small. The k-th largest of the maxima of blocks of 128 tokens is a lower bound of the cut, few tokens
  reach it, and top-p is searched among these alone;
- BRACKETED: top-p alone, or a large k alone. A sample of the line puts eight pivots around where the cut must be; one
  pass measures how much lies above each pivot, exactly; two neighbours then bracket the cut;
- STREAMED: a large k together with top-p: searched from the logits, by one program a line.

Searching thresholds in place of sorting is what FlashInfer's samplers do too; placing pivots by a sample and its
standard error is the idea of Floyd and Rivest's SELECT (1975).
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.sampling_device import (
    BLOCK,
    CHUNK,
    DRAW,
    FLOORED,
    INF,
    NUM_PIVOTS,
    RANKED,
    TINY,
    from_key,
    load_chunk_max,
    order_key,
    weight_of,
)
from bough.kernels.gpu.sampling_types import SamplingState, SamplingWorkspace, check_lines

ALL = tl.constexpr(0)
BOUNDED = tl.constexpr(1)
BRACKETED = tl.constexpr(2)
STREAMED = tl.constexpr(3)

_SAMPLE = tl.constexpr(4096)
_RUN = tl.constexpr(16)
"""Neighbouring tokens in a sample: two sectors of memory."""


@triton.jit
def _kth_largest(values, k, lowest, highest):
    """The largest key c in [lowest, highest] with at least k of the values >= c; `lowest` if there is none."""
    low = lowest.to(tl.int64)
    high = highest.to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        reached = tl.sum((values >= from_key(middle)).to(tl.int32), axis=0) >= k
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return from_key(low)


@triton.jit
def _cut_of_sample(sample, value, budget, lowest, highest):
    """The largest float c in the range of keys such that the values of what is below c add up to at most `budget`."""
    low = lowest.to(tl.int64)
    high = highest.to(tl.int64)
    while low < high:
        middle = low + (high - low + 1) // 2
        fits = tl.sum(tl.where(sample < from_key(middle), value, 0.0), axis=0) <= budget
        low = tl.where(fits, middle, low)
        high = tl.where(fits, high, middle - 1)
    return from_key(low)


@triton.jit
def _pivots_around(sample, value, valid, num_valid, cut, cut_value, lowest, highest):
    """[NUM_PIVOTS] sample values around the cut, falling; steps in rank are multiples of the rank's standard error."""
    below = tl.where(sample < cut, value, 0.0)
    tail = tl.sum(below, axis=0)
    variance = tl.maximum(tl.sum(below * below, axis=0) - tail * tail / num_valid, 0.0)
    error = tl.minimum(tl.sqrt(variance) / cut_value, 64.0) + 1.0
    rank = tl.sum((valid & (sample >= cut)).to(tl.int32), axis=0).to(tl.float32)
    index = tl.arange(0, NUM_PIVOTS)
    distance = tl.abs(2 * index - (NUM_PIVOTS - 1))
    steps = tl.where(distance == 1, 0.35, tl.where(distance == 3, 1.1, tl.where(distance == 5, 2.2, 4.0)))
    steps = tl.where(2 * index < NUM_PIVOTS, -steps, steps)
    ranks = tl.ceil(rank + error * steps).to(tl.int32)
    low = lowest + tl.zeros([NUM_PIVOTS], tl.int64)
    high = highest + tl.zeros([NUM_PIVOTS], tl.int64)
    # All keys are less than 2^32 apart.
    for _ in range(32):
        middle = low + (high - low + 1) // 2
        # What pads the sample is -inf and reaches no middle.
        reached = tl.sum((sample[:, None] >= from_key(middle)[None, :]).to(tl.int32), axis=0) >= ranks
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, tl.maximum(middle - 1, low))
    return from_key(low)


@triton.jit
def _store_pivots(
    line_ptr, vocab_size, line_max, scale, target, total, by_count, lowest, highest, pivots_ptr
):  # fmt: skip
    index = tl.arange(0, _SAMPLE)
    stride = tl.maximum(vocab_size // _SAMPLE * _RUN, _RUN)
    tokens = index // _RUN * stride + index % _RUN
    valid = tokens < vocab_size
    num_valid = tl.minimum(vocab_size, _SAMPLE).to(tl.float32)
    sample = tl.load(line_ptr + tokens, mask=valid, other=-INF)
    value = tl.where(by_count, 1.0, weight_of(sample, line_max, scale))
    value = tl.where(valid, value, 0.0)
    # By what lies below the cut, not above: few heavy tokens, which a sample misses, are then no matter.
    budget = ((total - target) * num_valid / vocab_size).to(tl.float32)
    cut = _cut_of_sample(sample, value, budget, lowest, highest)
    cut_value = tl.maximum(tl.where(by_count, 1.0, weight_of(cut, line_max, scale)), TINY)
    pivots = _pivots_around(sample, value, valid, num_valid, cut, cut_value, lowest, highest)
    tl.store(pivots_ptr + tl.arange(0, NUM_PIVOTS), pivots)


@triton.jit
def _line_total(chunk_sum_ptr, maxima, line_max, scale, line, num_chunks, PADDED_CHUNKS: tl.constexpr):
    chunks = tl.arange(0, PADDED_CHUNKS)
    present = (chunks < num_chunks) & (maxima > -INF)
    sums = tl.load(chunk_sum_ptr + line * num_chunks + chunks, mask=present, other=0.0)
    return tl.sum(sums.to(tl.float64) * weight_of(maxima, line_max, scale).to(tl.float64), axis=0)


@triton.jit
def _pivots_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, num_chunks,
    flags_ptr, temperature_ptr, top_k_ptr, top_p_ptr, stride,
    chunk_max_ptr, chunk_sum_ptr, block_max_ptr, line_max_ptr, mode_ptr, target_ptr, pivots_ptr,
    PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if ((flags & DRAW) == 0) | ((flags & (RANKED | FLOORED)) == 0):
        return
    maxima = load_chunk_max(chunk_max_ptr, line, num_chunks, PADDED_CHUNKS)
    line_max = tl.max(maxima, axis=0)
    tl.store(line_max_ptr + line, line_max)
    tl.store(mode_ptr + line, ALL)
    if ((flags & RANKED) == 0) | (tl.abs(line_max) == INF):
        return
    top_k = tl.load(top_k_ptr + row * stride)
    top_p = tl.load(top_p_ptr + row * stride)
    num_blocks = tl.cdiv(vocab_size, BLOCK)
    limited = (top_k > 0) & (top_k < vocab_size)
    lowest = order_key(tl.full([], -INF, tl.float32)).to(tl.int64)
    highest = order_key(line_max).to(tl.int64)
    if limited & (2 * top_k <= num_blocks):
        padded: tl.constexpr = PADDED_CHUNKS * (CHUNK // BLOCK)
        blocks = tl.arange(0, padded)
        stored = num_chunks * (CHUNK // BLOCK)
        block_maxima = tl.load(block_max_ptr + line * stored + blocks, mask=blocks < stored, other=-INF)
        tl.store(pivots_ptr + line * NUM_PIVOTS, _kth_largest(block_maxima, top_k, lowest, highest))
        tl.store(mode_ptr + line, BOUNDED)
    elif limited & (top_p < 1.0):
        tl.store(mode_ptr + line, STREAMED)
    elif limited | (top_p < 1.0):
        scale = 1.0 / tl.load(temperature_ptr + row * stride)
        mass = _line_total(chunk_sum_ptr, maxima, line_max, scale, line, num_chunks, PADDED_CHUNKS)
        total = tl.where(limited, vocab_size.to(tl.float64), mass)
        target = tl.where(limited, top_k.to(tl.float64), top_p.to(tl.float64) * mass)
        tl.store(target_ptr + line, target)
        _store_pivots(
            logits_ptr + line * line_stride, vocab_size, line_max, scale, target, total, limited, lowest, highest,
            pivots_ptr + line * NUM_PIVOTS,
        )  # fmt: skip
        tl.store(mode_ptr + line, BRACKETED)


@triton.jit
def _measure_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, num_chunks,
    flags_ptr, temperature_ptr, top_k_ptr, stride,
    line_max_ptr, mode_ptr, pivots_ptr, measures_ptr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if ((flags & DRAW) == 0) | ((flags & RANKED) == 0):
        return
    if tl.load(mode_ptr + line) != BRACKETED:
        return
    top_k = tl.load(top_k_ptr + row * stride)
    by_count = (top_k > 0) & (top_k < vocab_size)
    line_max = tl.load(line_max_ptr + line)
    scale = 1.0 / tl.load(temperature_ptr + row * stride)
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + line * line_stride + tokens, mask=tokens < vocab_size, other=-INF)
    value = tl.where(by_count, 1.0, weight_of(x, line_max, scale))
    value = tl.where(tokens < vocab_size, value, 0.0)
    out = (line * num_chunks + chunk) * NUM_PIVOTS
    for i in tl.static_range(NUM_PIVOTS):
        pivot = tl.load(pivots_ptr + line * NUM_PIVOTS + i)
        tl.store(measures_ptr + out + i, tl.sum(tl.where(x >= pivot, value, 0.0), axis=0))


def bracket(logits: Tensor, rows: Tensor, state: SamplingState, workspace: SamplingWorkspace) -> None:
    """Find for each line that draws with a filter what brackets its cut, in two launches; other lines end at once.

    Args:
        logits: [S, V] float32, adjusted by `reduce`.
        rows: [S] int32; -1: padding.
        state: of the rows.
        workspace: holds what `reduce` left; gets mode, largest logit, pivots and their measures of each line.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, rows, state, workspace)
    if num_lines == 0:
        return
    s, w = state, workspace
    stride, vocab_size = s.flags.stride(0), logits.shape[1]
    _pivots_kernel[(num_lines,)](
        logits, logits.stride(0), vocab_size, rows, w.num_chunks,
        s.flags, s.temperature, s.top_k, s.top_p, stride,
        w.chunk_max, w.chunk_sum, w.block_max, w.line_max, w.mode, w.target, w.pivots,
        PADDED_CHUNKS=triton.next_power_of_2(w.num_chunks), num_warps=16,
    )  # fmt: skip
    _measure_kernel[(num_lines, w.num_chunks)](
        logits, logits.stride(0), vocab_size, rows, w.num_chunks,
        s.flags, s.temperature, s.top_k, stride,
        w.line_max, w.mode, w.pivots, w.measures,
        num_warps=8,
    )  # fmt: skip
