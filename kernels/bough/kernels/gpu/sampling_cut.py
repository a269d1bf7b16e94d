"""The cut itself, from the few tokens within its bracket, and what each chunk keeps."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.sampling_device import (
    CAPACITY,
    CHUNK,
    DRAW,
    FLOORED,
    INF,
    NUM_PIVOTS,
    RANKED,
    TINY,
    from_key,
    order_key,
    weight_of,
)
from bough.kernels.gpu.sampling_filter import ALL, BOUNDED, BRACKETED, STREAMED
from bough.kernels.gpu.sampling_types import SamplingState, SamplingWorkspace, check_lines

_PIECE = tl.constexpr(1024)


@triton.jit
def _bracket_of(
    mode, line, line_max, num_chunks, target_ptr, pivots_ptr, measures_ptr, PADDED_CHUNKS: tl.constexpr
):  # fmt: skip
    """(low, high, measure from high on): the cut is in [low, high); where the two are equal, it is that number."""
    low = tl.full([], -INF, tl.float32)
    high = tl.full([], -INF, tl.float32)
    above = tl.full([], 0.0, tl.float64)
    if mode == BOUNDED:
        low = tl.load(pivots_ptr + line * NUM_PIVOTS)
        high = tl.full([], INF, tl.float32)
    if mode == BRACKETED:
        index = tl.arange(0, NUM_PIVOTS)
        chunks = tl.arange(0, PADDED_CHUNKS)
        pivots = tl.load(pivots_ptr + line * NUM_PIVOTS + index)
        places = (line * num_chunks + chunks)[:, None] * NUM_PIVOTS + index[None, :]
        measures = tl.load(measures_ptr + places, mask=(chunks < num_chunks)[:, None], other=0.0)
        totals = tl.sum(measures.to(tl.float64), axis=0)
        # Pivots fall, hence totals rise: the first that reaches the target is the lower end.
        first = tl.sum((totals < tl.load(target_ptr + line)).to(tl.int32), axis=0)
        low = tl.max(tl.where(index == first, pivots, -INF), axis=0)
        high = tl.where(first == 0, INF, tl.max(tl.where(index == first - 1, pivots, -INF), axis=0))
        above = tl.sum(tl.where(index == first - 1, totals, 0.0), axis=0)
    # Nothing is larger than the largest.
    high = tl.where(low == line_max, low, high)
    return low, high, above


@triton.jit
def _collect_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, num_chunks,
    flags_ptr, temperature_ptr, min_p_ptr, stride,
    line_max_ptr, mode_ptr, target_ptr, pivots_ptr, measures_ptr,
    candidates_ptr, num_candidates_ptr, kept_sum_ptr,
    PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if ((flags & DRAW) == 0) | ((flags & (RANKED | FLOORED)) == 0):
        return
    mode = tl.load(mode_ptr + line)
    line_max = tl.load(line_max_ptr + line)
    if (mode == STREAMED) | (tl.abs(line_max) == INF):
        return
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits_ptr + line * line_stride + tokens, mask=tokens < vocab_size, other=-INF)
    scale = 1.0 / tl.load(temperature_ptr + row * stride)
    floor = tl.where((flags & FLOORED) != 0, tl.load(min_p_ptr + row * stride), 0.0)
    low, high, _above = _bracket_of(
        mode, line, line_max, num_chunks, target_ptr, pivots_ptr, measures_ptr, PADDED_CHUNKS
    )
    weights = weight_of(x, line_max, scale)
    out = line * num_chunks + chunk
    tl.store(kept_sum_ptr + out, tl.sum(tl.where((x >= high) & (weights >= floor), weights, 0.0), axis=0))
    chosen = (x >= low) & (x < high) & (weights >= TINY)
    count = tl.sum(chosen.to(tl.int32), axis=0)
    tl.store(num_candidates_ptr + out, count)
    if (count > 0) & (count <= CAPACITY):
        # In pieces read again, for registers: half as many programs would fit on a processor otherwise.
        filled = count * 0
        for start in range(0, CHUNK, _PIECE):
            some = chunk * CHUNK + start + tl.arange(0, _PIECE)
            y = tl.load(logits_ptr + line * line_stride + some, mask=some < vocab_size, other=-INF)
            taken = ((y >= low) & (y < high) & (weight_of(y, line_max, scale) >= TINY)).to(tl.int32)
            places = filled + tl.cumsum(taken, axis=0) - taken
            tl.store(candidates_ptr + out * CAPACITY + places, y, mask=taken != 0)
            filled += tl.sum(taken, axis=0)


@triton.jit
def _search(x, value, above, target, lowest, highest):
    """The largest key c in [lowest, highest] with `above` + the values of x >= c reaching the target, else `lowest`."""
    low = lowest
    high = highest
    while low < high:
        middle = low + (high - low + 1) // 2
        inner = tl.sum(tl.sum(tl.where(x >= from_key(middle), value, 0.0), axis=1), axis=0)
        reached = above + inner.to(tl.float64) >= target
        low = tl.where(reached, middle, low)
        high = tl.where(reached, high, middle - 1)
    return low


@triton.jit
def _measures_of_line(line_ptr, vocab_size, line_max, scale, by_count, first, second, third):
    """How much of a whole line lies from each of three floats on."""
    sums_1 = tl.zeros([CHUNK], tl.float32)
    sums_2 = tl.zeros([CHUNK], tl.float32)
    sums_3 = tl.zeros([CHUNK], tl.float32)
    start = vocab_size * 0
    while start < vocab_size:
        tokens = start + tl.arange(0, CHUNK)
        inside = tokens < vocab_size
        x = tl.load(line_ptr + tokens, mask=inside, other=-INF)
        value = tl.where(by_count, 1.0, weight_of(x, line_max, scale))
        value = tl.where(inside, value, 0.0)
        sums_1 += tl.where(x >= first, value, 0.0)
        sums_2 += tl.where(x >= second, value, 0.0)
        sums_3 += tl.where(x >= third, value, 0.0)
        start += CHUNK
    return tl.sum(sums_1, axis=0), tl.sum(sums_2, axis=0), tl.sum(sums_3, axis=0)


@triton.jit
def _search_line(line_ptr, vocab_size, line_max, scale, by_count, target, lowest, highest):
    """As `_search`, over a whole line: three thresholds in a pass leave a quarter of the range."""
    low = lowest
    high = highest
    while low < high:
        span = high - low + 1
        key_1 = low + (span + 3) // 4
        key_2 = tl.maximum(low + (span + 1) // 2, key_1)
        key_3 = tl.maximum(low + (3 * span + 3) // 4, key_2)
        key_3 = tl.minimum(key_3, high)
        key_2 = tl.minimum(key_2, key_3)
        key_1 = tl.minimum(key_1, key_2)
        measure_1, measure_2, measure_3 = _measures_of_line(
            line_ptr, vocab_size, line_max, scale, by_count, from_key(key_1), from_key(key_2), from_key(key_3)
        )
        reached_1 = measure_1.to(tl.float64) >= target
        reached_2 = measure_2.to(tl.float64) >= target
        reached_3 = measure_3.to(tl.float64) >= target
        high = tl.where(reached_3, high, tl.where(reached_2, key_3, tl.where(reached_1, key_2, key_1)) - 1)
        low = tl.where(reached_3, key_3, tl.where(reached_2, key_2, tl.where(reached_1, key_1, low)))
    return low


@triton.jit
def _cut_line(
    line_ptr, vocab_size, line_max, scale, top_k, top_p, floor, lowest, highest, kept_sum_ptr
):  # fmt: skip
    """Cut and kept sums of a line from its logits alone: many passes by one program."""
    limited = (top_k > 0) & (top_k < vocab_size)
    low = lowest
    if limited:
        target = top_k.to(tl.float64)
        low = _search_line(line_ptr, vocab_size, line_max, scale, True, target, lowest, highest)
    if top_p < 1.0:
        start = tl.where(limited, from_key(low), -INF)
        mass, _second, _third = _measures_of_line(line_ptr, vocab_size, line_max, scale, False, start, start, start)
        target = top_p.to(tl.float64) * mass.to(tl.float64)
        low = _search_line(line_ptr, vocab_size, line_max, scale, False, target, low, highest)
    cut = from_key(low)
    start = vocab_size * 0
    while start < vocab_size:
        tokens = start + tl.arange(0, CHUNK)
        x = tl.load(line_ptr + tokens, mask=tokens < vocab_size, other=-INF)
        weights = weight_of(x, line_max, scale)
        kept = tl.sum(tl.where((x >= cut) & (weights >= floor), weights, 0.0), axis=0)
        tl.store(kept_sum_ptr + start // CHUNK, kept)
        start += CHUNK
    return cut


@triton.jit
def _cut_candidates(
    x, line_max, scale, mode, by_count, top_k, top_p, above, target, lowest, highest
):  # fmt: skip
    """The cut of a line whose candidates are all at hand, as a float."""
    weights = weight_of(x, line_max, scale)
    bounded = mode == BOUNDED
    counting = bounded | by_count
    value = tl.where(counting, (x > -INF).to(tl.float32), weights)
    goal = tl.where(bounded, top_k.to(tl.float64), target)
    low = _search(x, value, above, goal, lowest, highest)
    if bounded & (top_p < 1.0):
        kept = tl.sum(tl.sum(tl.where(x >= from_key(low), weights, 0.0), axis=1), axis=0).to(tl.float64)
        low = _search(x, weights, tl.full([], 0.0, tl.float64), top_p.to(tl.float64) * kept, low, highest)
    return from_key(low)


@triton.jit
def _cut_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, num_chunks,
    flags_ptr, temperature_ptr, top_k_ptr, top_p_ptr, min_p_ptr, stride,
    line_max_ptr, mode_ptr, target_ptr, pivots_ptr, measures_ptr,
    candidates_ptr, num_candidates_ptr, kept_sum_ptr, cut_ptr,
    PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if ((flags & DRAW) == 0) | ((flags & (RANKED | FLOORED)) == 0):
        return
    mode = tl.load(mode_ptr + line)
    line_max = tl.load(line_max_ptr + line)
    if (mode == ALL) | (tl.abs(line_max) == INF):
        tl.store(cut_ptr + line, -INF)
        return
    scale = 1.0 / tl.load(temperature_ptr + row * stride)
    floor = tl.where((flags & FLOORED) != 0, tl.load(min_p_ptr + row * stride), 0.0)
    top_k = tl.load(top_k_ptr + row * stride)
    top_p = tl.load(top_p_ptr + row * stride)
    low, high, above = _bracket_of(
        mode, line, line_max, num_chunks, target_ptr, pivots_ptr, measures_ptr, PADDED_CHUNKS
    )
    lowest = order_key(low).to(tl.int64)
    highest = order_key(tl.minimum(high, line_max)).to(tl.int64)
    highest = tl.where(mode == STREAMED, order_key(line_max).to(tl.int64), highest)
    chunks = tl.arange(0, PADDED_CHUNKS)
    present = (chunks < num_chunks) & (mode != STREAMED)
    counts = tl.load(num_candidates_ptr + line * num_chunks + chunks, mask=present, other=0)
    if (mode == STREAMED) | (tl.max(counts, axis=0) > CAPACITY):
        line_ptr = logits_ptr + line * line_stride
        cut = _cut_line(
            line_ptr, vocab_size, line_max, scale, top_k, top_p, floor, lowest, highest,
            kept_sum_ptr + line * num_chunks,
        )  # fmt: skip
        tl.store(cut_ptr + line, cut)
    else:
        slots = tl.arange(0, CAPACITY)
        places = (line * num_chunks + chunks)[:, None] * CAPACITY + slots[None, :]
        x = tl.load(candidates_ptr + places, mask=slots[None, :] < counts[:, None], other=-INF)
        by_count = (top_k > 0) & (top_k < vocab_size)
        target = tl.load(target_ptr + line)
        cut = _cut_candidates(x, line_max, scale, mode, by_count, top_k, top_p, above, target, lowest, highest)
        weights = weight_of(x, line_max, scale)
        kept = tl.sum(tl.where((x >= cut) & (weights >= floor), weights, 0.0), axis=1)
        own = kept_sum_ptr + line * num_chunks + chunks
        tl.store(own, tl.load(own, mask=present, other=0.0) + kept, mask=present)
        tl.store(cut_ptr + line, cut)


def cut(logits: Tensor, rows: Tensor, state: SamplingState, workspace: SamplingWorkspace) -> None:
    """Find the cut of each line that `bracket` looked at, in two launches, and the sum that each chunk keeps.

    The first collects the tokens within the bracket, at most `CAPACITY` of a chunk, and sums what is above it; the
    second searches the collected tokens, one program a line. A line of which a chunk has more (thousands of equal
    logits at the cut, or likely tokens all at one end of the vocabulary) is searched from its logits instead, with the
    same result but ten times as slowly.

    Args:
        logits: [S, V] float32, adjusted by `reduce`.
        rows: [S] int32; -1: padding.
        state: of the rows.
        workspace: holds what `bracket` left; gets `cut` [L], the smallest logit that stays, and `kept_sum` [L, C],
            the sum of the weights that top-k, top-p and min-p leave of each chunk.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, rows, state, workspace)
    if num_lines == 0:
        return
    s, w = state, workspace
    stride, vocab_size = s.flags.stride(0), logits.shape[1]
    padded = triton.next_power_of_2(w.num_chunks)
    _collect_kernel[(num_lines, w.num_chunks)](
        logits, logits.stride(0), vocab_size, rows, w.num_chunks,
        s.flags, s.temperature, s.min_p, stride,
        w.line_max, w.mode, w.target, w.pivots, w.measures, w.candidates, w.num_candidates, w.kept_sum,
        PADDED_CHUNKS=padded, num_warps=8,
    )  # fmt: skip
    _cut_kernel[(num_lines,)](
        logits, logits.stride(0), vocab_size, rows, w.num_chunks,
        s.flags, s.temperature, s.top_k, s.top_p, s.min_p, stride,
        w.line_max, w.mode, w.target, w.pivots, w.measures, w.candidates, w.num_candidates, w.kept_sum, w.cut,
        PADDED_CHUNKS=padded, num_warps=16,
    )  # fmt: skip
