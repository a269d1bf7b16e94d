"""Log probabilities of the sampled token and of the likeliest ones, from the logits before anything changes them."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.sampling_device import (
    CHUNK,
    INF,
    LOGPROBS,
    from_key,
    is_adjusted,
    load_chunk_max,
    order_key,
)
from bough.kernels.gpu.sampling_types import LogprobOutputs, SamplingState, SamplingWorkspace, check_lines

_LEAST = tl.constexpr(-(2**63))
_LOWER_HALF = tl.constexpr(2**32 - 1)


@triton.jit
def _packed(x, tokens):
    """An int64 for each (logit, id) whose order is: larger logits first, lower ids first among equals."""
    # 0.0 and -0.0 are equal.
    return (order_key(x + 0.0).to(tl.int64) << 32) | (~tokens.to(tl.int64) & _LOWER_HALF)


@triton.jit
def _capture_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, sampled_position_ptr, num_chunks,
    flags_ptr, min_tokens_ptr, num_prompt_ptr, stride,
    raw_ptr, raw_max_ptr, raw_sum_ptr, chunk_top_ptr,
    NUM_TOP: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if (flags & LOGPROBS) == 0:
        return
    tokens = chunk * CHUNK + tl.arange(0, CHUNK)
    inside = tokens < vocab_size
    x = tl.load(logits_ptr + line * line_stride + tokens, mask=inside, other=-INF)
    output_position = tl.load(sampled_position_ptr + line) - tl.load(num_prompt_ptr + row * stride)
    if is_adjusted(flags, output_position, tl.load(min_tokens_ptr + row * stride)):
        tl.store(raw_ptr + line * vocab_size + tokens, x, mask=inside)
    out = line * num_chunks + chunk
    largest = tl.max(x, axis=0)
    base = tl.where(tl.abs(largest) < INF, largest, 0.0)
    tl.store(raw_max_ptr + out, largest)
    tl.store(raw_sum_ptr + out, tl.sum(tl.exp(tl.minimum(x - base, 0.0)), axis=0))
    packed = tl.where(inside, _packed(x, tokens), _LEAST)
    last = tl.full([], 2**63 - 1, tl.int64)
    for i in range(NUM_TOP):
        last = tl.max(tl.where(packed < last, packed, _LEAST), axis=0)
        tl.store(chunk_top_ptr + out * NUM_TOP + i, last)


@triton.jit
def _merge_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, sampled_position_ptr, num_chunks,
    flags_ptr, min_tokens_ptr, num_prompt_ptr, stride,
    raw_ptr, raw_max_ptr, raw_sum_ptr, chunk_top_ptr, tokens_ptr,
    logprobs_ptr, ranks_ptr, top_ids_ptr, top_logprobs_ptr,
    NUM_TOP: tl.constexpr, PADDED_TOP: tl.constexpr, PADDED_CHUNKS: tl.constexpr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if (flags & LOGPROBS) == 0:
        return
    maxima = load_chunk_max(raw_max_ptr, line, num_chunks, PADDED_CHUNKS)
    largest = tl.max(maxima, axis=0)
    chunks = tl.arange(0, PADDED_CHUNKS)
    present = (chunks < num_chunks) & (maxima > -INF)
    sums = tl.load(raw_sum_ptr + line * num_chunks + chunks, mask=present, other=0.0).to(tl.float64)
    total = tl.sum(sums * tl.exp(tl.where(present, maxima - largest, 0.0).to(tl.float64)), axis=0)
    normalizer = tl.log(total)
    output_position = tl.load(sampled_position_ptr + line) - tl.load(num_prompt_ptr + row * stride)
    own_ptr = logits_ptr + line * line_stride
    if is_adjusted(flags, output_position, tl.load(min_tokens_ptr + row * stride)):
        own_ptr = raw_ptr + line * vocab_size
    own = tl.load(own_ptr + tl.load(tokens_ptr + line))
    tl.store(logprobs_ptr + line, ((own - largest).to(tl.float64) - normalizer).to(tl.float32))
    tl.store(ranks_ptr + line, 1)
    entries = tl.arange(0, PADDED_CHUNKS * PADDED_TOP)
    places = line * num_chunks * NUM_TOP + entries
    packed = tl.load(chunk_top_ptr + places, mask=entries < num_chunks * NUM_TOP, other=_LEAST)
    last = tl.full([], 2**63 - 1, tl.int64)
    for i in range(NUM_TOP):
        last = tl.max(tl.where(packed < last, packed, _LEAST), axis=0)
        value = from_key(last >> 32)
        tl.store(top_ids_ptr + line * NUM_TOP + i, (~last & _LOWER_HALF).to(tl.int32))
        tl.store(top_logprobs_ptr + line * NUM_TOP + i, ((value - largest).to(tl.float64) - normalizer).to(tl.float32))


@triton.jit
def _rank_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, sampled_position_ptr,
    flags_ptr, min_tokens_ptr, num_prompt_ptr, stride, raw_ptr, tokens_ptr, ranks_ptr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    flags = tl.load(flags_ptr + row * stride)
    if (flags & LOGPROBS) == 0:
        return
    output_position = tl.load(sampled_position_ptr + line) - tl.load(num_prompt_ptr + row * stride)
    own_ptr = logits_ptr + line * line_stride
    if is_adjusted(flags, output_position, tl.load(min_tokens_ptr + row * stride)):
        own_ptr = raw_ptr + line * vocab_size
    tokens = tl.program_id(1) * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(own_ptr + tokens, mask=tokens < vocab_size, other=-INF)
    likelier = tl.sum((x > tl.load(own_ptr + tl.load(tokens_ptr + line))).to(tl.int32), axis=0)
    if likelier > 0:
        tl.atomic_add(ranks_ptr + line, likelier, sem="relaxed")


def _check_logprobs(workspace: SamplingWorkspace) -> tuple[Tensor, int]:
    if workspace.raw is None or workspace.num_top is None:
        raise ValueError("workspace was made without num_top: it has no room for log probabilities")
    return workspace.raw, workspace.num_top


def capture_logprobs(
    logits: Tensor, rows: Tensor, sampled_position: Tensor, state: SamplingState, workspace: SamplingWorkspace
) -> None:
    """Reduce the raw logits of the lines that ask for log probabilities; must run before `reduce` changes them.

    Keeps per chunk the largest logit, the sum of exponentials and the K likeliest, and copies the lines that `reduce`
    is going to change.

    Args:
        logits: [S, V] float32, each line contiguous.
        rows: [S] int32; -1: padding.
        sampled_position: [S] int32 sequence position of the token to produce.
        state: of the rows.
        workspace: made with `num_top`; gets the results.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, sampled_position, state, workspace)
    raw, num_top = _check_logprobs(workspace)
    if num_lines == 0:
        return
    s, w = state, workspace
    _capture_kernel[(num_lines, w.num_chunks)](
        logits, logits.stride(0), logits.shape[1], rows, sampled_position, w.num_chunks,
        s.flags, s.min_tokens, s.num_prompt, s.flags.stride(0),
        raw, w.raw_max, w.raw_sum, w.chunk_top,
        NUM_TOP=num_top, num_warps=8,
    )  # fmt: skip


def read_logprobs(
    logits: Tensor, rows: Tensor, sampled_position: Tensor, state: SamplingState, workspace: SamplingWorkspace
) -> LogprobOutputs:
    """Log probability and rank of the tokens that `select` chose, and the K likeliest tokens of each line.

    Args:
        logits: [S, V] float32, as `select` left them.
        rows: [S] int32; -1: padding.
        sampled_position: [S] int32, the same as given to `capture_logprobs`.
        state: of the rows.
        workspace: holds what `capture_logprobs` and `select` left.

    Returns:
        `workspace.outputs`; ids rise among equally likely tokens, as in the CPU's sampler.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, sampled_position, state, workspace)
    raw, num_top = _check_logprobs(workspace)
    if num_lines == 0:
        return workspace.outputs
    s, w, o = state, workspace, workspace.outputs
    _merge_kernel[(num_lines,)](
        logits, logits.stride(0), logits.shape[1], rows, sampled_position, w.num_chunks,
        s.flags, s.min_tokens, s.num_prompt, s.flags.stride(0),
        raw, w.raw_max, w.raw_sum, w.chunk_top, w.tokens,
        o.logprobs, o.ranks, o.top_ids, o.top_logprobs,
        NUM_TOP=num_top, PADDED_TOP=triton.next_power_of_2(max(num_top, 1)),
        PADDED_CHUNKS=triton.next_power_of_2(w.num_chunks), num_warps=8,
    )  # fmt: skip
    _rank_kernel[(num_lines, w.num_chunks)](
        logits, logits.stride(0), logits.shape[1], rows, sampled_position,
        s.flags, s.min_tokens, s.num_prompt, s.flags.stride(0), raw, w.tokens, o.ranks,
        num_warps=8,
    )  # fmt: skip
    return o
