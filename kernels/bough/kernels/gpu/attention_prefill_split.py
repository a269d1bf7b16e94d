"""How prefill attention is cut: tiles, and parts of a long context where a short chunk alone would not fill the GPU.

Parts are those of flash-decoding (Dao, Haziza, Massa and Sizov 2023), for blocks of queries instead of single ones. The
program that arrives last at a block, by a counter, adds its parts up in their order: there is one launch, and a result
depends on its operands and the configuration alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import AttentionShape, require

MAX_SPLITS = 16
# Below this many programs narrow tiles are faster: they spread the work, and lose less where contexts are short.
_FEW_PROGRAMS = 4 * 132
# Programs of tiles up to this many rows share a multiprocessor, two by two.
_NARROW_ROWS = 64
# Contexts are cut where all their parts run in at most so many waves; it bounds the workspace.
_MOST_WAVES = 4
# Parts that are on their way at once where they are added up.
_TOGETHER = tl.constexpr(4)


@triton.jit
def _add_up_parts(
    out_ptr, partials_ptr, tops_ptr, sums_ptr, at_row, real, used, part_rows,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Attention of a block of queries from its `used` parts; pointers as in `leave_part`."""
    # Other programs wrote these a moment ago: read past the first-level cache, which is not coherent.
    highest = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    for first in range(0, used, _TOGETHER):
        for after in tl.static_range(_TOGETHER):
            there = real & (first + after < used)
            at_top = tops_ptr + (first + after) * part_rows + at_row
            top = tl.load(at_top, mask=there, other=float("-inf"), cache_modifier=".cg")
            highest = tl.maximum(highest, top)
    # Rows that do not exist have no part, and must not be infinity less infinity.
    highest = tl.where(real, highest, 0.0)
    # Few columns at a time: several parts of them are on their way at once, and the registers of the products suffice.
    COLUMNS: tl.constexpr = min(BLOCK_D, 32)
    for slice in tl.static_range(BLOCK_D // COLUMNS):
        dims = slice * COLUMNS + tl.arange(0, COLUMNS)
        at = at_row[:, None] * HEAD_DIM + dims[None, :]
        stored = real[:, None] & (dims < HEAD_DIM)[None, :]
        total = tl.zeros([BLOCK_M], dtype=tl.float32)
        acc = tl.zeros([BLOCK_M, COLUMNS], dtype=tl.float32)
        for first in range(0, used, _TOGETHER):
            for after in tl.static_range(_TOGETHER):
                there = first + after < used
                first_row = tl.cast(first + after, tl.int64) * part_rows
                top = tl.load(
                    tops_ptr + first_row + at_row, mask=real & there, other=float("-inf"), cache_modifier=".cg"
                )
                weight = tl.exp2(top - highest)
                total += weight * tl.load(
                    sums_ptr + first_row + at_row, mask=real & there, other=0.0, cache_modifier=".cg"
                )
                values = tl.load(
                    partials_ptr + first_row * HEAD_DIM + at, mask=stored & there, other=0.0, cache_modifier=".cg"
                )
                acc += weight[:, None] * values
        values = acc / tl.where(real, total, 1.0)[:, None]
        tl.store(out_ptr + at, values.to(out_ptr.dtype.element_ty), mask=stored)


@triton.jit
def leave_part(
    out_ptr, partials_ptr, tops_ptr, sums_ptr, counter_ptr, acc, total, top, at, at_row, stored, real,
    split, used, part_rows,
    HEAD_DIM: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """Put the sums of a part of a block of queries into the workspace; the last to arrive adds all parts up.

    The pointers are those of the block, in the workspace of its first part; parts lie `part_rows` rows apart. `at` and
    `at_row` lead to the values and rows of a block, of which those in `stored` and `real` exist.
    """
    first_row = tl.cast(split, tl.int64) * part_rows
    tl.store(partials_ptr + first_row * HEAD_DIM + at, acc, mask=stored)
    tl.store(tops_ptr + first_row + at_row, top, mask=real)
    tl.store(sums_ptr + first_row + at_row, total, mask=real)
    # One thread counts for the program: all of its threads must have written before it does.
    tl.debug_barrier()
    arrived = tl.atomic_add(counter_ptr, 1, sem="acq_rel", scope="gpu")
    if arrived == used - 1:
        tl.store(counter_ptr, 0)  # for the next launch
        _add_up_parts(
            out_ptr, partials_ptr, tops_ptr, sums_ptr, at_row, real, used, part_rows, HEAD_DIM, BLOCK_M, BLOCK_D
        )


@dataclass(frozen=True)
class PrefillConfig:
    """How a prefill program is cut: rows (query tokens times group) and keys a block, warps, pipeline stages."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int


def prefill_config(head_dim: int, dtype: torch.dtype, *, few: bool = False) -> PrefillConfig:
    """The configuration for a head dimension and a dtype; `few` where wide tiles would not fill the GPU."""
    if dtype == torch.float32:
        # Without tensor cores the operands of a product sit in registers: small blocks, more threads.
        return PrefillConfig(block_m=32, block_n=16, num_warps=8, num_stages=2)
    if head_dim > 128:
        return PrefillConfig(64, 32, 4, 3) if few else PrefillConfig(128, 32, 8, 3)
    if few:
        return PrefillConfig(64, 64, 4, 3)
    if head_dim == 128:
        return PrefillConfig(128, 128, 8, 3)
    # Also 80 and 96: what their mask takes in registers leaves no room for wider blocks.
    return PrefillConfig(128, 64, 8, 3)


def choose_prefill_config(shape: AttentionShape, num_tokens: int, dtype: torch.dtype) -> PrefillConfig:
    """The configuration for a launch of so many query tokens."""
    wide = prefill_config(shape.head_dim, dtype)
    programs = num_tokens * shape.num_heads // wide.block_m
    return prefill_config(shape.head_dim, dtype, few=programs < _FEW_PROGRAMS)


@dataclass(frozen=True, slots=True)
class PrefillSplits:
    """How many parts the contexts of a launch are cut into.

    The number is found from the lengths in device memory (`attention_prefill_plan`), since a graph knows no more than
    how many tokens fit: as many as make the launch shortest. How many lines share the tokens does not matter: they only
    add blocks of few rows.
    """

    most: int = 1
    """1 to 16."""
    wave: int = 0
    """Programs that the GPU runs at once; 0 takes `most` parts whatever there is."""


UNCUT = PrefillSplits()


def choose_prefill_splits(
    num_tokens: int, num_kv_heads: int, group: int, config: PrefillConfig, num_sms: int
) -> PrefillSplits:
    """What a launch of up to so many query tokens may do, with the workspace of `prefill_workspace`.

    Args:
        num_tokens: query tokens of the launch, at least 1.
        num_kv_heads: key-value heads.
        group: query heads of each.
        config: of the launch.
        num_sms: multiprocessors of the GPU.
    """
    require(num_tokens > 0, f"num_tokens must be positive, not {num_tokens}")
    programs = -(-num_tokens // (config.block_m // group)) * num_kv_heads
    wave = _wave(config, num_sms)
    return PrefillSplits(min(max(_MOST_WAVES * wave // programs, 1), MAX_SPLITS), wave)


def _wave(config: PrefillConfig, num_sms: int) -> int:
    """Programs that run at once."""
    return num_sms * (2 if config.block_m <= _NARROW_ROWS else 1)


@dataclass(frozen=True)
class PrefillWorkspace:
    """Partial sums of contexts that are cut into several parts; may be shared by launches that follow one another.

    `counters` must be zero before a launch and is zero after it. A launch that was torn down half-way leaves it
    undefined.
    """

    partials: Tensor  # [parts * T * H * D] float32: sums of values, not yet divided
    tops: Tensor  # [parts * T * H] float32: highest scores
    sums: Tensor  # like tops: sums of weights
    counters: Tensor  # [blocks * kv_heads] int32: parts that have arrived

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All four, in the order of the kernel's arguments."""
        return self.partials, self.tops, self.sums, self.counters


def prefill_workspace(
    shape: AttentionShape, max_lines: int, dtype: torch.dtype, num_sms: int, device: torch.device
) -> PrefillWorkspace:
    """A workspace for every launch of up to `max_lines` lines whose parts follow from `choose_prefill_splits`.

    It does not grow with the tokens, as steps of many are not cut: 35 MB on 132 multiprocessors with a head dimension
    of 128.
    """
    configs = (prefill_config(shape.head_dim, dtype), prefill_config(shape.head_dim, dtype, few=True))
    rows = max(_MOST_WAVES * _wave(config, num_sms) * config.block_m for config in configs)
    programs = max(_MOST_WAVES * _wave(config, num_sms) for config in configs)
    counters = programs + max_lines * shape.num_kv_heads
    return PrefillWorkspace(
        partials=torch.empty(rows * shape.head_dim, dtype=torch.float32, device=device),
        tops=torch.empty(rows, dtype=torch.float32, device=device),
        sums=torch.empty(rows, dtype=torch.float32, device=device),
        counters=torch.zeros(counters, dtype=torch.int32, device=device),
    )


def check_splits(splits: PrefillSplits) -> None:
    """Raise ValueError for numbers that are out of range."""
    require(1 <= splits.most <= MAX_SPLITS, f"splits.most must be 1 to {MAX_SPLITS}, not {splits.most}")
    require(splits.wave >= 0, f"splits.wave must not be negative, but is {splits.wave}")


def check_workspace(
    workspace: PrefillWorkspace | None,
    shape: AttentionShape,
    num_tokens: int,
    num_blocks: int,
    splits: PrefillSplits,
    device: torch.device,
) -> None:
    """Check that a launch of so many tokens, in up to so many blocks a head, can be cut into `splits.most` parts.

    Raises:
        ValueError: it cannot.
    """
    if splits.most == 1:
        return
    rows = splits.most * num_tokens * shape.num_heads
    require(
        workspace is not None
        and workspace.partials.numel() >= rows * shape.head_dim
        and workspace.tops.numel() >= rows
        and workspace.sums.numel() >= rows
        and workspace.counters.numel() >= num_blocks * shape.num_kv_heads,
        f"workspace is too small for {num_tokens} tokens in {splits.most} parts",
    )
    assert workspace is not None
    require(workspace.counters.device == device, f"workspace must be on {device}, not {workspace.counters.device}")
