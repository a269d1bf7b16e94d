"""Causal attention of chunks of tokens over the paged cache: FlashAttention-2 (Dao 2023) with pages read in the kernel.

A program serves one key-value head of one line for a block of query tokens; the rows of its matrix products are those
tokens times the query heads of the group, so that a short chunk fills them too and each page is read once for all
heads. Blocks of keys that every row sees go without a mask; only those on the diagonal, and at the far edge of a
window, have one.

Which line and which of its blocks a program serves follows from `query_start` in device memory. Line b is given the
block numbers from query_start[b] // BLOCK_Q + b on: enough for its blocks whatever the lengths before it are, at most
T // BLOCK_Q + B in all, and found without a prefix sum. So the grid depends on T and B alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import (
    LOG2_E,
    PAGE_SIZE,
    AttentionShape,
    check_cache,
    check_index,
    check_scalars,
    require,
)

_MAX_LINES = 4096
# Below this many programs the wide tiles leave multiprocessors idle; narrow ones spread the work.
_FEW_PROGRAMS = 132


@triton.jit
def _attend_blocks(
    acc, total, top, queries, positions, keys_ptr, values_ptr, pages_ptr, begin, end, first_token, last_token,
    score_scale,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Go on with the softmax over the tokens [begin, end), begin a multiple of BLOCK_N; returns acc, total and top.

    Tokens before first_token and from last_token on are seen by no row and are not read; MASKED may be left out where
    every row sees every token of every block.
    """
    dims = tl.arange(0, BLOCK_D)
    at_slot = (tl.arange(0, BLOCK_N) % PAGE * HEAD_DIM)[:, None] + dims[None, :]
    tokens = begin + tl.arange(0, BLOCK_N)
    pages = tl.load(pages_ptr + tokens // PAGE, mask=(tokens >= first_token) & (tokens < last_token), other=0)
    for start in range(begin, end, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        slots = (pages.to(tl.int64) * (KV_HEADS * PAGE * HEAD_DIM))[:, None] + at_slot
        # The pages of the next block are asked for now, so that its loads can go out without waiting for them.
        ahead = tokens + BLOCK_N
        pages = tl.load(pages_ptr + ahead // PAGE, mask=(ahead >= first_token) & (ahead < last_token), other=0)
        readable = tl.full([BLOCK_N, BLOCK_D], True, dtype=tl.int1)
        if MASKED:
            # Slots that no row sees hold anything, NaN too: they are not read, as zero times NaN would spoil the sum.
            readable = ((tokens >= first_token) & (tokens < last_token))[:, None] & readable
        if HEAD_DIM != BLOCK_D:
            readable = readable & (dims[None, :] < HEAD_DIM)
        if MASKED or HEAD_DIM != BLOCK_D:
            keys = tl.load(keys_ptr + slots, mask=readable, other=0.0)
        else:
            keys = tl.load(keys_ptr + slots)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        if MASKED:
            visible = (tokens[None, :] <= positions[:, None]) & (tokens < last_token)[None, :]
            if WINDOW > 0:
                visible = visible & (tokens[None, :] > positions[:, None] - WINDOW)
            scores = tl.where(visible, scores, float("-inf"))
        new_top = tl.maximum(top, tl.max(scores, 1) * score_scale)
        origin = new_top
        if MASKED and WINDOW > 0:
            # A row whose window begins in a later block has seen nothing so far, and infinity less infinity is NaN.
            # A large finite mask would not do: the multiply-add below keeps the digits of its product that rounding
            # took from new_top, and two to the power of their difference can be infinite.
            origin = tl.where(new_top == float("-inf"), 0.0, new_top)
        shrink = tl.exp2(top - origin)
        weights = tl.exp2(scores * score_scale - origin[:, None])
        total = total * shrink + tl.sum(weights, 1)
        if MASKED or HEAD_DIM != BLOCK_D:
            values = tl.load(values_ptr + slots, mask=readable, other=0.0)
        else:
            values = tl.load(values_ptr + slots)
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        top = new_top
    return acc, total, top


@triton.jit
def _attend_context(
    queries, keys_ptr, values_ptr, pages_ptr, lowest, context, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Attention of a block of queries whose first token is at position lowest of its row: values, not yet stored."""
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    end = tl.minimum(lowest + BLOCK_Q, context)
    positions = lowest + tl.arange(0, BLOCK_M) // GROUP
    diagonal = (lowest + 1) // BLOCK_N * BLOCK_N
    first_token = 0
    begin = 0
    inner = 0
    if WINDOW > 0:
        # Rows of no token see what the last token sees: a row that saw nothing would divide zero by zero.
        positions = tl.minimum(positions, end - 1)
        first_token = tl.maximum(lowest + 1 - WINDOW, 0)
        begin = first_token // BLOCK_N * BLOCK_N
        inner = tl.minimum(tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK_N) * BLOCK_N, diagonal)

    top = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    if WINDOW > 0:
        acc, total, top = _attend_blocks(
            acc, total, top, queries, positions, keys_ptr, values_ptr, pages_ptr, begin, inner, first_token, end,
            score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, True,
        )  # fmt: skip
    acc, total, top = _attend_blocks(
        acc, total, top, queries, positions, keys_ptr, values_ptr, pages_ptr, inner, diagonal, first_token, end,
        score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, False,
    )  # fmt: skip
    acc, total, top = _attend_blocks(
        acc, total, top, queries, positions, keys_ptr, values_ptr, pages_ptr, diagonal, end, first_token, end,
        score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, True,
    )  # fmt: skip
    return acc / total[:, None]


@triton.jit
def _prefill_kernel(
    out_ptr, queries_ptr, keys_ptr, values_ptr, page_table_ptr, rows_ptr, query_start_ptr, context_lens_ptr,
    num_lines, max_pages, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, LINES_POW2: tl.constexpr, WINDOW: tl.constexpr,
    SKIP_SINGLE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    # Late blocks have the longest contexts; they go first, so that short ones fill the gaps at the end.
    block = tl.num_programs(0) - 1 - tl.program_id(0)
    kv_head = tl.program_id(1)
    lines = tl.arange(0, LINES_POW2)
    starts = tl.load(query_start_ptr + lines, mask=lines < num_lines, other=0)
    ahead = (starts // BLOCK_Q + lines <= block) & (lines < num_lines)
    line = tl.sum(ahead.to(tl.int32), 0) - 1
    query_begin = tl.load(query_start_ptr + line)
    num_queries = tl.load(query_start_ptr + line + 1) - query_begin
    context = tl.load(context_lens_ptr + line)
    row = tl.load(rows_ptr + line)
    if PDL:
        # Every program waits, also one without work: a launch that ended before the one it follows would let the next
        # one through too early.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    first_query = (block - query_begin // BLOCK_Q - line) * BLOCK_Q
    if (first_query >= num_queries) | (context == 0) | (SKIP_SINGLE and num_queries == 1):
        return

    index = tl.arange(0, BLOCK_M)
    query = first_query + index // GROUP
    real = (index < BLOCK_Q * GROUP) & (query < num_queries)
    dims = tl.arange(0, BLOCK_D)
    stored = real[:, None] & (dims[None, :] < HEAD_DIM)
    at = ((index // GROUP) * (KV_HEADS * GROUP) + index % GROUP)[:, None] * HEAD_DIM + dims[None, :]
    origin = ((query_begin + first_query).to(tl.int64) * KV_HEADS + kv_head) * (GROUP * HEAD_DIM)
    queries = tl.load(queries_ptr + origin + at, mask=stored, other=0.0)

    values = _attend_context(
        queries, keys_ptr + kv_head * (PAGE * HEAD_DIM), values_ptr + kv_head * (PAGE * HEAD_DIM),
        page_table_ptr + row.to(tl.int64) * max_pages, context - num_queries + first_query, context, score_scale,
        KV_HEADS, GROUP, HEAD_DIM, BLOCK_D, PAGE, BLOCK_M, BLOCK_N, WINDOW,
    )  # fmt: skip
    tl.store(out_ptr + origin + at, values.to(out_ptr.dtype.element_ty), mask=stored)


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


def paged_prefill_attention(
    queries: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, rows: Tensor, query_start: Tensor,
    context_lens: Tensor, *,
    scale: float, window: int | None, out: Tensor, skip_single: bool = False, pdl: bool = False,
    config: PrefillConfig | None = None,
) -> Tensor:  # fmt: skip
    """Causal attention of the last tokens of each line over its pages, which hold their keys and values already.

    Index tensors are trusted: what they hold is read by the device and never checked.

    Args:
        queries: [T, H, D] bfloat16, float16 or float32, line by line; D a multiple of 16 up to 256, up to 16 heads a
            key-value head.
        keys: [num_pages, kv_heads, 16, D].
        values: like keys.
        page_table: [max_rows, max_pages] int32, the pages of a row in order.
        rows: [B] int32, the row of each line; up to 4,096 lines.
        query_start: [B + 1] int32, ascending from 0: line b has the tokens query_start[b] to query_start[b + 1]. It may
            have none. Tokens from query_start[B] on belong to no line, and their part of `out` is left alone.
        context_lens: [B] int32, tokens of the row in the cache, these ones included; 0 is a padding line: nothing of it
            is read, and its part of `out` is left alone.
        scale: factor of the scores, positive.
        window: tokens that a token sees, itself included; None for all before it.
        out: [T, H, D].
        skip_single: leave lines of one token alone, for `paged_decode_attention`.
        pdl: launch while the kernel before still runs (programmatic dependent launch). `rows`, `query_start` and
            `context_lens` are read at once; the kernels that write them must have ended when the one before this
            starts.
        config: replaces the tuned configuration.

    Returns:
        `out`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    shape = check_cache(queries, keys, values, out)
    device = queries.device
    check_index("rows", rows, (None,), device)
    num_lines = rows.shape[0]
    require(num_lines <= _MAX_LINES, f"rows: at most {_MAX_LINES} lines, not {num_lines}")
    check_index("page_table", page_table, (None, None), device)
    check_index("query_start", query_start, (num_lines + 1,), device)
    check_index("context_lens", context_lens, (num_lines,), device)
    check_scalars(scale, window)
    if num_lines > 0 and queries.shape[0] > 0:
        config = config or _config_for(shape, queries.shape[0], queries.dtype)
        require(config.block_m >= shape.group, f"config: block_m must hold the {shape.group} heads of a group")
        options = _Options(scale, window or 0, skip_single, pdl)
        _launch((out, queries, keys, values, page_table, rows, query_start, context_lens), shape, options, config)
    return out


@dataclass(frozen=True)
class _Options:
    scale: float
    window: int
    skip_single: bool
    pdl: bool


def _launch(tensors: tuple[Tensor, ...], shape: AttentionShape, options: _Options, config: PrefillConfig) -> None:
    """Start the kernel on `tensors`: out, queries, keys, values, page_table, rows, query_start, context_lens."""
    num_tokens, max_pages, num_lines = tensors[1].shape[0], tensors[4].shape[1], tensors[5].shape[0]
    num_blocks = num_tokens // (config.block_m // shape.group) + num_lines
    _prefill_kernel[(num_blocks, shape.num_kv_heads)](
        *tensors,
        num_lines,
        max_pages,
        options.scale * LOG2_E,
        KV_HEADS=shape.num_kv_heads,
        GROUP=shape.group,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=triton.next_power_of_2(shape.head_dim),
        PAGE=PAGE_SIZE,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        LINES_POW2=triton.next_power_of_2(num_lines),
        WINDOW=options.window,
        SKIP_SINGLE=options.skip_single,
        PDL=options.pdl,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **({"launch_pdl": True} if options.pdl else {}),
    )


def _config_for(shape: AttentionShape, num_tokens: int, dtype: torch.dtype) -> PrefillConfig:
    wide = prefill_config(shape.head_dim, dtype)
    programs = num_tokens * shape.num_heads // wide.block_m
    return prefill_config(shape.head_dim, dtype, few=programs < _FEW_PROGRAMS)
