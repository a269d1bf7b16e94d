"""The last pass: one token for each line, its effect on the row, and a record for the host."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu import sampling_types as types
from bough.kernels.gpu.sampling_device import (
    CHUNK,
    DRAW,
    FLOORED,
    INF,
    MAX_STOP_IDS,
    PENALIZED,
    RANKED,
    load_chunk_max,
    weight_of,
)
from bough.kernels.gpu.sampling_types import SamplingState, SamplingWorkspace, check_lines

_STOP = tl.constexpr(int(types.SampleCode.STOP))
_NOTHING_ALLOWED = tl.constexpr(int(types.SampleCode.NOTHING_ALLOWED))
_NOT_FINITE = tl.constexpr(int(types.SampleCode.NOT_FINITE))
_TAG_MASK = tl.constexpr(2**types.TAG_BITS - 1)
_TAG_SHIFT = tl.constexpr(40)
_CODE_SHIFT = tl.constexpr(32)
_NONE = tl.constexpr(2**31 - 1)

# SplitMix64's constants as the int64 with the same bits: a product keeps its lower 64 bits either way.
_GAMMA = tl.constexpr(0x9E3779B97F4A7C15 - 2**64)
_MIX_1 = tl.constexpr(0xBF58476D1CE4E5B9 - 2**64)
_MIX_2 = tl.constexpr(0x94D049BB133111EB - 2**64)


@triton.jit
def _shift_right(z, BITS: tl.constexpr):
    """Shift zeros in from the left."""
    return (z >> BITS) & ((1 << (64 - BITS)) - 1)


@triton.jit
def uniform(seed, position):
    """Output number `position` of SplitMix64 (Steele, Lea and Flood 2014) seeded with `seed`, as float64 in [0, 1).

    The upper 53 bits, times 2^-53: bit for bit what the CPU's sampler draws.
    """
    z = seed + (position.to(tl.int64) + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).to(tl.float64) * (2.0**-53)


@triton.jit
def _draw(
    line_ptr, vocab_size, maxima, sums, line_max, scale, cut, floor, u, greedy, PADDED_CHUNKS: tl.constexpr
):  # fmt: skip
    """The first token, in the order of ids, whose cumulative weight exceeds u times the sum of all weights."""
    chunks = tl.arange(0, PADDED_CHUNKS)
    cumulative = tl.cumsum(sums, axis=0)
    target = u * tl.sum(tl.where(chunks == PADDED_CHUNKS - 1, cumulative, 0.0), axis=0)
    last = tl.max(tl.where(sums > 0, chunks, 0), axis=0)
    exceeding = (cumulative > target) & (sums > 0)
    chosen = tl.minimum(tl.min(tl.where(exceeding, chunks, PADDED_CHUNKS), axis=0), last)
    before = tl.sum(tl.where(chunks == chosen - 1, cumulative, 0.0), axis=0)
    tokens = chosen * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(line_ptr + tokens, mask=tokens < vocab_size, other=-INF)
    weights = weight_of(x, line_max, scale)
    weights = tl.where((x >= cut) & (weights >= floor), weights, 0.0)
    inner = tl.cumsum(weights.to(tl.float64), axis=0)
    # Sums of chunks and sums within one are rounded apart: past the end, the last likely token is meant.
    final = tl.max(tl.where(weights > 0, tokens, -1), axis=0)
    found = tl.min(tl.where((inner > target - before) & (weights > 0), tokens, _NONE), axis=0)
    token = tl.minimum(found, final)
    return tl.where(token < 0, greedy, token)


@triton.jit
def _drawn_token(
    logits_ptr, line_stride, vocab_size, line, row, flags, output_position, num_chunks, maxima, line_max, greedy,
    temperature_ptr, min_p_ptr, seed_ptr, stride, seed_stride, chunk_sum_ptr, kept_sum_ptr, cut_ptr,
    FILTERED: tl.constexpr, PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    chunks = tl.arange(0, PADDED_CHUNKS)
    present = (chunks < num_chunks) & (maxima > -INF)
    scale = 1.0 / tl.load(temperature_ptr + row * stride)
    u = uniform(tl.load(seed_ptr + row * seed_stride), output_position)
    cut = tl.full([], -INF, tl.float32)
    floor = tl.full([], 0.0, tl.float32)
    # In float32, as the weight of the chunk's largest: the product is positive only where the chunk has a weight.
    factors = weight_of(maxima, line_max, scale)
    sums = tl.load(chunk_sum_ptr + line * num_chunks + chunks, mask=present, other=0.0).to(tl.float64)
    sums = sums * factors.to(tl.float64)
    if FILTERED:  # noqa: SIM102  # known when compiled: the plain variant has none of what follows
        if (flags & (RANKED | FLOORED)) != 0:
            sums = tl.load(kept_sum_ptr + line * num_chunks + chunks, mask=present, other=0.0).to(tl.float64)
            cut = tl.load(cut_ptr + line)
            floor = tl.where((flags & FLOORED) != 0, tl.load(min_p_ptr + row * stride), 0.0)
    return _draw(
        logits_ptr + line * line_stride, vocab_size, maxima, sums, line_max, scale, cut, floor, u, greedy, PADDED_CHUNKS
    )


@triton.jit
def _note(
    token, code, flags, row, output_position, sampled_position,
    first_stop_ptr, stride, stop_ids_ptr, stop_stride, counts_ptr, counts_stride, token_ptr, position_ptr,
):  # fmt: skip
    """Advance the row; returns the code with STOP where the token ends the sequence."""
    tl.store(token_ptr + row, token)
    tl.store(position_ptr + row, sampled_position)
    if code == 0:
        if flags & PENALIZED:
            count_ptr = counts_ptr + row * counts_stride + token
            tl.store(count_ptr, tl.load(count_ptr) + 1)
        stop_ids = tl.load(stop_ids_ptr + row * stop_stride + tl.arange(0, MAX_STOP_IDS))
        found = tl.max((stop_ids == token).to(tl.int32), axis=0) > 0
        if found & (output_position >= tl.load(first_stop_ptr + row * stride)):
            code = code | _STOP
    return code


@triton.jit
def _select_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, sampled_position_ptr, num_chunks,
    flags_ptr, temperature_ptr, min_p_ptr, num_prompt_ptr, first_stop_ptr, stride, seed_ptr, seed_stride,
    stop_ids_ptr, stop_stride, counts_ptr, counts_stride, token_ptr, position_ptr,
    chunk_max_ptr, chunk_argmax_ptr, chunk_sum_ptr, kept_sum_ptr, cut_ptr, tokens_ptr,
    ring_ptr, ring_stride, ring_slots, step_counter_ptr, arrivals_ptr,
    FILTERED: tl.constexpr, PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + line).to(tl.int64)
    step = tl.load(step_counter_ptr)
    if row >= 0:
        flags = tl.load(flags_ptr + row * stride)
        sampled_position = tl.load(sampled_position_ptr + line)
        output_position = sampled_position - tl.load(num_prompt_ptr + row * stride)
        maxima = load_chunk_max(chunk_max_ptr, line, num_chunks, PADDED_CHUNKS)
        line_max = tl.max(maxima, axis=0)
        chunks = tl.arange(0, PADDED_CHUNKS)
        largest = (maxima == line_max) & (chunks < num_chunks)
        likeliest = tl.load(chunk_argmax_ptr + line * num_chunks + chunks, mask=largest, other=_NONE)
        token = tl.min(likeliest, axis=0)
        code = tl.where(line_max == -INF, _NOTHING_ALLOWED, tl.where(line_max == INF, _NOT_FINITE, 0))
        if code != 0:
            token = token * 0
        elif (flags & DRAW) != 0:
            token = _drawn_token(
                logits_ptr, line_stride, vocab_size, line, row, flags, output_position, num_chunks, maxima, line_max,
                token, temperature_ptr, min_p_ptr, seed_ptr, stride, seed_stride, chunk_sum_ptr, kept_sum_ptr, cut_ptr,
                FILTERED, PADDED_CHUNKS,
            )  # fmt: skip
        code = _note(
            token, code, flags, row, output_position, sampled_position,
            first_stop_ptr, stride, stop_ids_ptr, stop_stride, counts_ptr, counts_stride, token_ptr, position_ptr,
        )  # fmt: skip
        tl.store(tokens_ptr + line, token)
        # One store of 8 bytes, which the host sees whole or not at all.
        record = token.to(tl.int64) | (code.to(tl.int64) << _CODE_SHIFT)
        record = record | ((step & _TAG_MASK).to(tl.int64) << _TAG_SHIFT)
        slot = (step & (ring_slots - 1)).to(tl.int64)
        tl.store(ring_ptr + slot * ring_stride + line, record)
    # Whoever arrives last counts the step: by then every program has read its number.
    if tl.atomic_add(arrivals_ptr, 1, sem="acq_rel") == tl.num_programs(0) - 1:
        tl.store(arrivals_ptr, 0)
        tl.store(step_counter_ptr, step + 1)


def check_ring(ring: Tensor, step_counter: Tensor, num_lines: int) -> None:
    """Raise ValueError unless the ring and the counter are what `select` writes."""
    slots = ring.shape[0] if ring.dim() == 2 else 0
    if ring.dtype != torch.int64 or slots < 1 or slots & (slots - 1) or ring.stride(1) != 1:
        raise ValueError(
            f"ring is {tuple(ring.shape)} of {ring.dtype}; [ring_slots, max_lines] of torch.int64 with contiguous "
            "slots, their number a power of two, is accepted"
        )
    if ring.shape[1] < num_lines:
        raise ValueError(f"ring has room for {ring.shape[1]} lines; {num_lines} are sampled")
    if step_counter.dtype != torch.int32 or step_counter.shape != (1,):
        raise ValueError(
            f"step_counter is {tuple(step_counter.shape)} of {step_counter.dtype}; [1] of torch.int32 is accepted"
        )


def select(
    logits: Tensor,
    rows: Tensor,
    sampled_position: Tensor,
    state: SamplingState,
    workspace: SamplingWorkspace,
    *,
    ring: Tensor,
    step_counter: Tensor,
    filtered: bool,
) -> None:
    """Choose the token of each line, advance its row, and tell the host; then count the step.

    Greedy lines take the largest logit (lowest id on ties), the others invert their cumulative distribution at
    `uniform(seed, output position)`. A line whose largest logit is not finite gets token 0 and an error code, and its
    row counts nothing.

    A row may have several lines, one for each position of a draft that is checked. Each gets the token that it would
    get alone, but what is left in `token` and `position` of the row is that of any one of them: the caller sets both
    before it decodes the row again. Penalties are for rows with one line, since all lines would add to the counts.

    The record of line s is `ring[step % ring_slots, s]`: token (bits 0 to 31), `SampleCode` (32 to 39), step modulo
    2^23 (40 to 62). Padding lines write none. The host polls until the lines it launched carry the tag.

    Args:
        logits: [S, V] float32, adjusted by `reduce`.
        rows: [S] int32; -1: padding.
        sampled_position: [S] int32 sequence position of the token to produce.
        state: of the rows; `token`, `position` and `counts` are advanced.
        workspace: holds what `reduce`, and `bracket` and `cut` where `filtered`, left; gets `tokens`.
        ring: [ring_slots, max_lines] int64, device or pinned host memory; ring_slots a power of two.
        step_counter: [1] int32 on the device: the number of this step; this launch adds 1 at its end.
        filtered: whether top-k, top-p and min-p apply; without it rows that ask for them draw unfiltered.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, sampled_position, state, workspace)
    check_ring(ring, step_counter, num_lines)
    if num_lines == 0:
        return
    s, w = state, workspace
    _select_kernel[(num_lines,)](
        logits, logits.stride(0), logits.shape[1], rows, sampled_position, w.num_chunks,
        s.flags, s.temperature, s.min_p, s.num_prompt, s.first_stop, s.flags.stride(0), s.seed, s.seed.stride(0),
        s.stop_ids, s.stop_ids.stride(0), s.counts, s.counts.stride(0), s.token, s.position,
        w.chunk_max, w.chunk_argmax, w.chunk_sum, w.kept_sum, w.cut, w.tokens,
        ring, ring.stride(0), ring.shape[0], step_counter, w.arrivals,
        FILTERED=filtered, PADDED_CHUNKS=triton.next_power_of_2(w.num_chunks), num_warps=8,
    )  # fmt: skip
