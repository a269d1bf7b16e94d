"""Attention of decodes over a prefix that several of them share: each page is read once for all (Juravsky et al. 2024).

Lines that share a prefix stand together in blocks. A program takes a block's queries of one key-value head as the rows
of its matrix products, goes over one part of the prefix, and leaves its sums of weights and values. The decode kernel
(`attention_decode`) begins each line's softmax with them and goes on behind the prefix.

Which lines those are lies in device memory, and programs take the blocks in turn: a CUDA graph that holds the launch
can be replayed with other prefixes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import LOG2_E, PAGE_SIZE, AttentionShape, check_index, require
from bough.kernels.gpu.attention_prefill import attend_blocks

_BLOCK_ROWS = 64
_PROGRAMS_PER_SM = 2
_MIN_PART_TOKENS = 256
_MOST_PARTS = tl.constexpr(16)


@dataclass(frozen=True)
class SharedConfig:
    """How a program is cut: tokens a block, warps, blocks on the way; and tokens of a part at least."""

    block_n: int
    num_warps: int
    num_stages: int
    min_part_tokens: int = _MIN_PART_TOKENS


def shared_config(head_dim: int, dtype: torch.dtype) -> SharedConfig:
    """The configuration for a head dimension and a dtype."""
    if dtype == torch.float32:
        return SharedConfig(block_n=16, num_warps=8, num_stages=2)
    return SharedConfig(block_n=32 if head_dim > 128 else 64, num_warps=4, num_stages=3)


@dataclass(frozen=True)
class SharedPrefixes:
    """Prefixes of a step's lines, and where the sums over them are left; one for all launches of a stream.

    The index tensors are trusted: what they hold is read by the device and never checked.
    """

    lines: Tensor
    """[blocks, block_lines] int32: lines of each block, -1 for none; the first of a block is always one."""
    tokens: Tensor
    """[blocks] int32: of the prefix that the block's lines share, a multiple of the page size and less than each of
    their contexts."""
    count: Tensor
    """[1] int32: blocks that are."""
    places: Tensor
    """[B] int32: index of each line in `lines`, flattened, or -1."""
    partials: Tensor
    """[parts, kv_heads, block_lines * (group, as a power of two), D] float32: sums of values, not yet divided."""
    stats: Tensor
    """[parts, kv_heads, 2, like partials] float32: highest scores, sums of weights."""
    wave: int
    """Programs that a launch has."""
    config: SharedConfig

    @property
    def block_lines(self) -> int:
        """Lines of a block."""
        return self.lines.shape[1]

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """What the decode kernel reads of them."""
        return self.places, self.tokens, self.count, self.partials, self.stats


def block_lines_of(shape: AttentionShape) -> int:
    """Lines of a block: as many as fill its matrix products."""
    return max(_BLOCK_ROWS // int(triton.next_power_of_2(shape.group)), 1)


def shared_prefixes(
    shape: AttentionShape, dtype: torch.dtype, lines: Tensor, tokens: Tensor, count: Tensor, places: Tensor, *,
    num_sms: int, config: SharedConfig | None = None,
) -> SharedPrefixes:  # fmt: skip
    """The index tensors with room for what a launch leaves.

    Args:
        shape: of the heads.
        dtype: of queries and cache.
        lines: see `SharedPrefixes`, as for the next three.
        tokens: likewise.
        count: likewise.
        places: likewise.
        num_sms: multiprocessors of the GPU.
        config: replaces the tuned configuration.

    Raises:
        ValueError: an index tensor has another type or shape.
    """
    device = lines.device
    block_lines = block_lines_of(shape)
    check_index("lines", lines, (None, block_lines), device)
    check_index("tokens", tokens, (lines.shape[0],), device)
    check_index("count", count, (1,), device)
    check_index("places", places, (None,), device)
    wave = max(_PROGRAMS_PER_SM * num_sms, shape.num_kv_heads)
    parts = max(wave // shape.num_kv_heads, lines.shape[0])
    rows = block_lines * triton.next_power_of_2(shape.group)
    partials = torch.empty(parts, shape.num_kv_heads, rows, shape.head_dim, dtype=torch.float32, device=device)
    stats = torch.empty(parts, shape.num_kv_heads, 2, rows, dtype=torch.float32, device=device)
    config = config or shared_config(shape.head_dim, dtype)
    return SharedPrefixes(lines, tokens, count, places, partials, stats, wave, config)


@triton.jit
def _cut(count, num_tokens, KV_HEADS: tl.constexpr, WAVE: tl.constexpr, BLOCK_N: tl.constexpr, LEAST: tl.constexpr):
    """Parts that any prefix of a launch may have, those that one of num_tokens has, and blocks of tokens of a part."""
    most = tl.minimum(tl.maximum(WAVE // (count * KV_HEADS), 1), _MOST_PARTS)
    blocks = tl.cdiv(num_tokens, BLOCK_N)
    wanted = tl.minimum(tl.maximum(num_tokens // LEAST, 1), most)
    per_part = tl.maximum(tl.cdiv(blocks, wanted), 1)
    return most, tl.cdiv(blocks, per_part), per_part


@triton.jit
def _shared_kernel(
    queries_ptr, keys_ptr, values_ptr, page_table_ptr, rows_ptr, lines_ptr, tokens_ptr, count_ptr,
    partials_ptr, stats_ptr, max_pages, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_POW2: tl.constexpr, BLOCK_LINES: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, WAVE: tl.constexpr,
    LEAST: tl.constexpr,
):  # fmt: skip
    BLOCK_M: tl.constexpr = BLOCK_LINES * GROUP_POW2
    count = tl.load(count_ptr)
    index = tl.arange(0, BLOCK_M)
    head = index % GROUP_POW2
    dims = tl.arange(0, BLOCK_D)
    inside = dims[None, :] < HEAD_DIM
    at_slot = (tl.arange(0, BLOCK_N) % PAGE * HEAD_DIM)[:, None] + dims[None, :]
    most, _, _ = _cut(tl.maximum(count, 1), 0, KV_HEADS, WAVE, BLOCK_N, LEAST)
    for item in range(tl.program_id(0), count * most * KV_HEADS, tl.num_programs(0)):
        kv_head = item % KV_HEADS
        place = item // KV_HEADS
        block, part = place // most, place % most
        num_tokens = tl.load(tokens_ptr + block)
        _, used, per_part = _cut(count, num_tokens, KV_HEADS, WAVE, BLOCK_N, LEAST)
        if part < used:
            begin = part * per_part * BLOCK_N
            stop = tl.minimum(begin + per_part * BLOCK_N, num_tokens)
            line = tl.load(lines_ptr + block * BLOCK_LINES + index // GROUP_POW2)
            first_line = tl.load(lines_ptr + block * BLOCK_LINES)
            pages_ptr = page_table_ptr + tl.load(rows_ptr + first_line).to(tl.int64) * max_pages
            real = (line >= 0) & (head < GROUP)
            row = ((line.to(tl.int64) * KV_HEADS + kv_head) * GROUP + head) * HEAD_DIM
            queries = tl.load(queries_ptr + row[:, None] + dims[None, :], mask=real[:, None] & inside, other=0.0)
            key_slots = keys_ptr + kv_head * (PAGE * HEAD_DIM) + at_slot
            value_slots = values_ptr + kv_head * (PAGE * HEAD_DIM) + at_slot
            top = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
            total = tl.zeros([BLOCK_M], dtype=tl.float32)
            acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
            positions = tl.zeros([BLOCK_M], dtype=tl.int32) + num_tokens  # behind all of it: it is seen whole
            whole = stop // BLOCK_N * BLOCK_N
            acc, total, top = attend_blocks(
                acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, begin, whole, 0, stop,
                score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, 0, False,
            )  # fmt: skip
            acc, total, top = attend_blocks(
                acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, whole, stop, 0, stop,
                score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, 0, True,
            )  # fmt: skip
            first_row = (place * KV_HEADS + kv_head).to(tl.int64) * BLOCK_M
            at = (first_row + index)[:, None] * HEAD_DIM + dims[None, :]
            tl.store(partials_ptr + at, acc, mask=real[:, None] & inside)
            tl.store(stats_ptr + 2 * first_row + index, top, mask=real)
            tl.store(stats_ptr + 2 * first_row + BLOCK_M + index, total, mask=real)


@triton.jit
def prefix_of_line(places_ptr, tokens_ptr, line, BLOCK_LINES: tl.constexpr):
    """A line's place in the blocks, and the tokens of its prefix; 0 for none."""
    place = tl.load(places_ptr + line)
    return place, tl.load(tokens_ptr + tl.maximum(place, 0) // BLOCK_LINES, mask=place >= 0, other=0)


@triton.jit
def take_prefix(
    partials_ptr, stats_ptr, count_ptr, place, num_tokens, kv_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_POW2: tl.constexpr, GROUP_ROWS: tl.constexpr,
    BLOCK_LINES: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
    WAVE: tl.constexpr, LEAST: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """A line's softmax over its prefix: sums of values [GROUP_ROWS, BLOCK_D] and of weights, and highest scores.

    Rows beyond the group repeat those of the group.
    """
    BLOCK_M: tl.constexpr = BLOCK_LINES * GROUP_POW2
    most, used, _ = _cut(tl.load(count_ptr), num_tokens, KV_HEADS, WAVE, BLOCK_N, LEAST)
    heads = tl.arange(0, GROUP_POW2)
    dims = tl.arange(0, BLOCK_D)
    top = tl.full([GROUP_POW2], float("-inf"), dtype=tl.float32)
    total = tl.zeros([GROUP_POW2], dtype=tl.float32)
    acc = tl.zeros([GROUP_POW2, BLOCK_D], dtype=tl.float32)
    for first in range(0, used, CHUNK):
        # All that is read of so many parts is on its way at once: one part after another would wait for each.
        parts = first + tl.arange(0, CHUNK)
        first_rows = ((place // BLOCK_LINES * most + parts) * KV_HEADS + kv_head).to(tl.int64) * BLOCK_M
        rows = first_rows[:, None] + (place % BLOCK_LINES * GROUP_POW2 + heads)[None, :]
        there = (parts < used)[:, None] & (heads < GROUP)[None, :]
        stats = stats_ptr + first_rows[:, None] + rows
        tops = tl.load(stats, mask=there, other=float("-inf"))
        sums = tl.load(stats + BLOCK_M, mask=there, other=0.0)
        stored = there[:, :, None] & (dims < HEAD_DIM)[None, None, :]
        values = tl.load(partials_ptr + rows[:, :, None] * HEAD_DIM + dims[None, None, :], mask=stored, other=0.0)
        new_top = tl.maximum(top, tl.max(tops, 0))
        new_top = tl.where(heads < GROUP, new_top, 0.0)
        shrink, weights = tl.exp2(top - new_top), tl.exp2(tops - new_top[None, :])
        total = total * shrink + tl.sum(sums * weights, 0)
        acc = acc * shrink[:, None] + tl.sum(values * weights[:, :, None], 0)
        top = new_top
    REPEATS: tl.constexpr = GROUP_ROWS // GROUP_POW2
    acc = tl.reshape(tl.broadcast_to(acc[None, :, :], (REPEATS, GROUP_POW2, BLOCK_D)), (GROUP_ROWS, BLOCK_D))
    total = tl.reshape(tl.broadcast_to(total[None, :], (REPEATS, GROUP_POW2)), (GROUP_ROWS,))
    top = tl.reshape(tl.broadcast_to(top[None, :], (REPEATS, GROUP_POW2)), (GROUP_ROWS,))
    return acc, total, top


def launch_shared(tensors: tuple[Tensor, ...], prefixes: SharedPrefixes, shape: AttentionShape, scale: float) -> None:
    """Leave the sums over all shared prefixes in `prefixes`.

    Args:
        tensors: queries, keys, values, page_table and rows of `paged_decode_attention`, which has checked them.
        prefixes: of the lines.
        shape: of the heads.
        scale: factor of the scores.

    Raises:
        ValueError: `prefixes` are made for other heads.
    """
    queries, page_table = tensors[0], tensors[3]
    require(prefixes.block_lines == block_lines_of(shape), f"prefixes: {block_lines_of(shape)} lines make a block")
    require(prefixes.places.shape[0] >= queries.shape[0], "prefixes: there must be a place for every line")
    require(prefixes.partials.shape[1::2] == (shape.num_kv_heads, shape.head_dim), "prefixes are for other heads")
    config = prefixes.config
    _shared_kernel[(prefixes.wave,)](
        *tensors,
        prefixes.lines,
        prefixes.tokens,
        prefixes.count,
        prefixes.partials,
        prefixes.stats,
        page_table.shape[1],
        scale * LOG2_E,
        KV_HEADS=shape.num_kv_heads,
        GROUP=shape.group,
        GROUP_POW2=triton.next_power_of_2(shape.group),
        BLOCK_LINES=prefixes.block_lines,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=triton.next_power_of_2(shape.head_dim),
        PAGE=PAGE_SIZE,
        BLOCK_N=config.block_n,
        WAVE=prefixes.wave,
        LEAST=config.min_part_tokens,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
    )


def decode_options(prefixes: SharedPrefixes | None) -> dict[str, int]:
    """What the decode kernel is compiled for, with and without shared prefixes."""
    if prefixes is None:
        return dict(SHARED=False, BLOCK_LINES=1, SHARED_BLOCK_N=1, SHARED_WAVE=1, SHARED_LEAST=1)
    return dict(
        SHARED=True,
        BLOCK_LINES=prefixes.block_lines,
        SHARED_BLOCK_N=prefixes.config.block_n,
        SHARED_WAVE=prefixes.wave,
        SHARED_LEAST=prefixes.config.min_part_tokens,
    )
