"""How decode attention is cut: parts of a context for programs of their own, and how they are added up.

Parts are those of flash-decoding (Dao, Haziza, Massa and Sizov 2023). The program that arrives last at a line, by a
counter, adds its parts up in their order: there is one launch, and a result depends on its operands alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import AttentionShape, require

MAX_SPLITS = 128
_PROGRAMS_PER_SM = 4
_LEAST_SPLITS = 4
# From so many lines times heads on, programs without work begin to count.
_MANY_PROGRAMS = 1024


@triton.jit
def _combine_parts(
    out_ptr, partial_ptr, stats_ptr, used,
    GROUP: tl.constexpr, GROUP_POW2: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    SPLITS_POW2: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Add up the parts of one (line, key-value head); the pointers are those of this pair."""
    heads = tl.arange(0, GROUP_POW2)
    dims = tl.arange(0, BLOCK_D)
    splits = tl.arange(0, SPLITS_POW2)
    # Other programs wrote these a moment ago: read past the first-level cache, which is not coherent.
    stats = stats_ptr + splits[:, None] * (2 * GROUP) + heads[None, :]
    there = (splits[:, None] < used) & (heads[None, :] < GROUP)
    maxima = tl.load(stats, mask=there, other=float("-inf"), cache_modifier=".cg")
    sums = tl.load(stats + GROUP, mask=there, other=0.0, cache_modifier=".cg")
    top = tl.max(maxima, 0)
    top = tl.where(heads < GROUP, top, 0.0)
    total = tl.sum(sums * tl.exp2(maxima - top[None, :]), 0)

    acc = tl.zeros([GROUP_POW2, BLOCK_D], dtype=tl.float32)
    for first in range(0, used, CHUNK):
        chunk = first + tl.arange(0, CHUNK)
        present = (chunk[:, None] < used) & (heads[None, :] < GROUP)
        chunk_maxima = tl.load(
            stats_ptr + chunk[:, None] * (2 * GROUP) + heads[None, :],
            mask=present,
            other=float("-inf"),
            cache_modifier=".cg",
        )
        weights = tl.exp2(chunk_maxima - top[None, :])
        parts = tl.load(
            partial_ptr
            + chunk[:, None, None] * (GROUP * HEAD_DIM)
            + heads[None, :, None] * HEAD_DIM
            + dims[None, None, :],
            mask=present[:, :, None] & (dims[None, None, :] < HEAD_DIM),
            other=0.0,
            cache_modifier=".cg",
        )
        acc += tl.sum(weights[:, :, None] * parts, 0)
    acc = acc / tl.where(heads < GROUP, total, 1.0)[:, None]
    tl.store(
        out_ptr + heads[:, None] * HEAD_DIM + dims[None, :],
        acc.to(out_ptr.dtype.element_ty),
        mask=(heads[:, None] < GROUP) & (dims[None, :] < HEAD_DIM),
    )


@triton.jit
def leave_part(
    out_ptr, partial_ptr, stats_ptr, counter_ptr, acc, total, top, at, real, split, used,
    GROUP: tl.constexpr, GROUP_POW2: tl.constexpr, GROUP_ROWS: tl.constexpr, HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr, SPLITS_POW2: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """Put a part into the workspace of its (line, key-value head); the last to arrive adds all of them up."""
    heads = tl.arange(0, GROUP_ROWS)
    stats = stats_ptr + split * (2 * GROUP) + heads
    tl.store(partial_ptr + split * (GROUP * HEAD_DIM) + at, acc, mask=real)
    tl.store(stats, top, mask=heads < GROUP)
    tl.store(stats + GROUP, total, mask=heads < GROUP)
    # One thread counts for the program: all of its threads must have written before it does.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    if arrived == used - 1:
        tl.store(counter_ptr, 0)  # for the next launch
        _combine_parts(out_ptr, partial_ptr, stats_ptr, used, GROUP, GROUP_POW2, HEAD_DIM, BLOCK_D, SPLITS_POW2, CHUNK)


@dataclass(frozen=True)
class DecodeWorkspace:
    """Partial sums of lines that are cut into several parts; may be shared by launches that follow one another.

    `counters` must be zero before a launch and is zero after it. A launch that was torn down half-way leaves it
    undefined.
    """

    partials: Tensor  # [lines * H * splits * D] float32: sums of values, not yet divided
    stats: Tensor  # [lines * H * splits * 2] float32: highest score, sum of weights
    counters: Tensor  # [lines * kv_heads] int32: parts that have arrived


def decode_workspace(
    max_lines: int, num_heads: int, num_kv_heads: int, head_dim: int, num_splits: int, device: torch.device
) -> DecodeWorkspace:
    """A workspace for launches of up to `max_lines` lines and up to `num_splits` parts a line."""
    parts = max_lines * num_heads * num_splits if num_splits > 1 else 0
    return DecodeWorkspace(
        partials=torch.empty(parts * head_dim, dtype=torch.float32, device=device),
        stats=torch.empty(parts * 2, dtype=torch.float32, device=device),
        counters=torch.zeros(max_lines * num_kv_heads, dtype=torch.int32, device=device),
    )


class DecodeSplits(NamedTuple):
    """How contexts are cut, see `paged_decode_attention`."""

    num_splits: int
    """Parts at most."""
    min_tokens: int
    """Of a part."""


def choose_splits(num_lines: int, num_kv_heads: int, num_sms: int) -> DecodeSplits:
    """Parts enough that few lines fill the GPU; where the lines do, long contexts alone are cut.

    A long line among many short ones would otherwise be read by one program a head, long after the others have ended;
    parts that have nothing to do cost next to nothing. On an H200, 256 lines of 258 tokens took 75.2 us with 1 part or
    4, and 78.1 with 8; with one line of 8,192 among them 235, 135 and 113.

    Args:
        num_lines: lines of the launch.
        num_kv_heads: key-value heads.
        num_sms: multiprocessors of the GPU.
    """
    require(num_lines > 0, f"num_lines must be positive, not {num_lines}")
    programs = num_lines * num_kv_heads
    filling = _PROGRAMS_PER_SM * num_sms // programs
    if filling > _LEAST_SPLITS:
        return DecodeSplits(min(filling, MAX_SPLITS), 64)
    if filling > 1:
        return DecodeSplits(2 * _LEAST_SPLITS, 128)
    return DecodeSplits(_LEAST_SPLITS if programs > _MANY_PROGRAMS else 2 * _LEAST_SPLITS, 512)


def check_workspace(
    workspace: DecodeWorkspace, shape: AttentionShape, num_lines: int, num_splits: int, device: torch.device
) -> None:
    """Check that a workspace is large enough for a launch.

    Raises:
        ValueError: it is not, or the number of parts is out of range.
    """
    require(1 <= num_splits <= MAX_SPLITS, f"num_splits must be 1 to {MAX_SPLITS}, not {num_splits}")
    parts = num_lines * shape.num_heads * num_splits if num_splits > 1 else 0
    require(
        workspace.partials.numel() >= parts * shape.head_dim
        and workspace.stats.numel() >= parts * 2
        and workspace.counters.numel() >= num_lines * shape.num_kv_heads,
        f"workspace is too small for {num_lines} lines in {num_splits} parts",
    )
    require(workspace.counters.device == device, f"workspace must be on {device}, not {workspace.counters.device}")
