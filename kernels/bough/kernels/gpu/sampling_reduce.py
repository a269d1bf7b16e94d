"""The first pass over the logits: penalties, bias, masks, and what each chunk of a line adds up to."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.sampling_device import (
    BIASED,
    BLOCK,
    CHUNK,
    DRAW,
    INF,
    MASKED,
    MAX_STOP_IDS,
    PENALIZED,
    RANKED,
    is_adjusted,
)
from bough.kernels.gpu.sampling_types import SamplingState, SamplingWorkspace, check_lines

_PIECE = tl.constexpr(1024)


@triton.jit
def _adjust(
    x, tokens, inside, flags, row, presence_ptr, frequency_ptr, repetition_ptr, stride,
    counts_ptr, bias_ptr, mask_ptr,
):  # fmt: skip
    """Penalties, bias and grammar mask, in this order."""
    if flags & PENALIZED:
        counts = tl.load(counts_ptr + tokens, mask=inside, other=0)
        produced = (counts & 0x7FFFFFFF).to(tl.float32)
        repetition = tl.load(repetition_ptr + row * stride)
        repeated = tl.where(x > 0, tl.math.div_rn(x, repetition), x * repetition)
        y = tl.where(counts != 0, repeated, x)
        y = tl.where(produced > 0, y - tl.load(frequency_ptr + row * stride) * produced, y)
        x = tl.where(produced > 0, y - tl.load(presence_ptr + row * stride), y)
    if flags & BIASED:
        x += tl.load(bias_ptr + tokens, mask=inside, other=0.0)
    if flags & MASKED:
        words = tl.load(mask_ptr + tokens // 32, mask=inside, other=0)
        # Added, not selected: a NaN stays one and fails the line.
        x += tl.where(((words >> (tokens % 32)) & 1) != 0, 0.0, -INF)
    return x


@triton.jit
def _reduce_kernel(
    logits_ptr, line_stride, vocab_size, rows_ptr, sampled_position_ptr, num_chunks,
    flags_ptr, temperature_ptr, presence_ptr, frequency_ptr, repetition_ptr, min_tokens_ptr, num_prompt_ptr, stride,
    ending_ids_ptr, ending_stride, counts_ptr, counts_stride, bias_ptr, bias_stride, masks_ptr, masks_stride,
    chunk_max_ptr, chunk_argmax_ptr, chunk_sum_ptr, block_max_ptr,
):  # fmt: skip
    line = tl.program_id(0).to(tl.int64)
    chunk = tl.program_id(1)
    row = tl.load(rows_ptr + line).to(tl.int64)
    if row < 0:
        return
    # A warp's 16-byte loads cover one row of the tile, so that the maximum of a block stays within the warp.
    blocks = tl.arange(0, CHUNK // BLOCK)
    tokens = chunk * CHUNK + blocks[:, None] * BLOCK + tl.arange(0, BLOCK)[None, :]
    inside = tokens < vocab_size
    line_ptr = logits_ptr + line * line_stride
    x = tl.load(line_ptr + tokens, mask=inside, other=-INF)
    flags = tl.load(flags_ptr + row * stride)
    output_position = tl.load(sampled_position_ptr + line) - tl.load(num_prompt_ptr + row * stride)
    min_tokens = tl.load(min_tokens_ptr + row * stride)
    if is_adjusted(flags, output_position, min_tokens):
        # In pieces, so that a program without adjustments needs few registers and many fit on a processor.
        for start in range(0, CHUNK, _PIECE):
            some = chunk * CHUNK + start + tl.arange(0, _PIECE)
            within = some < vocab_size
            y = tl.load(line_ptr + some, mask=within, other=-INF)
            y = _adjust(
                y, some, within, flags, row, presence_ptr, frequency_ptr, repetition_ptr, stride,
                counts_ptr + row * counts_stride, bias_ptr + row * bias_stride, masks_ptr + line * masks_stride,
            )  # fmt: skip
            tl.store(line_ptr + some, y, mask=within)
        if (output_position < min_tokens) & ((flags & MASKED) == 0):
            ids = tl.load(ending_ids_ptr + row * ending_stride + tl.arange(0, MAX_STOP_IDS))
            here = (ids >= 0) & (ids < vocab_size) & (ids // CHUNK == chunk)
            tl.debug_barrier()
            tl.store(line_ptr + ids, tl.full([MAX_STOP_IDS], -INF, tl.float32), mask=here)
        # What other threads of this program stored is read back.
        tl.debug_barrier()
        x = tl.load(line_ptr + tokens, mask=inside, other=-INF)
    # The largest logit is +inf from here on where there is a NaN: either fails the line.
    x = tl.where(x != x, INF, x)
    maxima = tl.max(x, axis=1)
    largest = tl.max(maxima, axis=0)
    out = line * num_chunks + chunk
    tl.store(chunk_max_ptr + out, largest)
    tl.store(chunk_argmax_ptr + out, tl.min(tl.min(tl.where(x == largest, tokens, 0x7FFFFFFF), axis=1), axis=0))
    if flags & DRAW:
        scale = 1.0 / tl.load(temperature_ptr + row * stride)
        # Infinities less themselves would give NaN; of a line that fails, the sum is not read.
        base = tl.where(tl.abs(largest) < INF, largest, 0.0)
        weights = tl.exp(tl.minimum((x - base) * scale, 0.0))
        tl.store(chunk_sum_ptr + out, tl.sum(tl.sum(weights, axis=1), axis=0))
        if flags & RANKED:
            tl.store(block_max_ptr + out * (CHUNK // BLOCK) + blocks, maxima)


def reduce(
    logits: Tensor, rows: Tensor, sampled_position: Tensor, state: SamplingState, workspace: SamplingWorkspace
) -> None:
    """Adjust the logits of each line as its row asks, and reduce each chunk of `CHUNK` tokens of it.

    In this order, as the CPU's sampler: repetition, frequency and presence penalties, bias, grammar mask, and -inf for
    tokens that would end the output before `min_tokens`. Lines that ask for none of it are only read. Per chunk the
    workspace gets the largest logit (+inf where there is a NaN), its lowest id and, for lines that draw, the sum of
    `exp((logit - largest of the chunk) / temperature)`.

    Args:
        logits: [S, V] float32, each line contiguous; adjusted in place.
        rows: [S] int32 stable row of each line, maybe of several; -1: padding, nothing is read or written.
        sampled_position: [S] int32 sequence position of the token to produce.
        state: of the rows.
        workspace: holds the masks of the lines whose row has a grammar; gets the results.

    Raises:
        ValueError: an argument does not fit; the text names it.
    """
    num_lines = check_lines(logits, rows, sampled_position, state, workspace)
    if num_lines == 0:
        return
    s, w = state, workspace
    _reduce_kernel[(num_lines, w.num_chunks)](
        logits, logits.stride(0), logits.shape[1], rows, sampled_position, w.num_chunks,
        s.flags, s.temperature, s.presence, s.frequency, s.repetition, s.min_tokens, s.num_prompt, s.flags.stride(0),
        s.ending_ids, s.ending_ids.stride(0), s.counts, s.counts.stride(0), s.bias, s.bias.stride(0),
        w.masks, w.masks.stride(0),
        w.chunk_max, w.chunk_argmax, w.chunk_sum, w.block_max,
        num_warps=8, maxnreg=48,
    )  # fmt: skip
