"""Paged attention of one query token a line: flash-decoding (Dao, Haziza, Massa and Sizov 2023).

A program serves one key-value head of one line over one part of its context. The query heads of the group are the rows
of its matrix products, so each page is read once for all of them. Reading is all that this kernel is about: products
cost next to nothing beside it, and blocks are small so that many programs with loads on the way fit on a
multiprocessor.

A line whose context is cut into several parts leaves partial sums in a workspace; the program that arrives last, by a
counter, adds them up. So there is one launch, and what a launch does follows from device memory alone: a CUDA graph
that holds it can be replayed with other contexts.

Prefixes that lines share are a launch before this one (`attention_shared`), whose sums each line goes on with.

The step that makes a token's key and value can be part of it: the program of the context's last part norms, rotates and
writes them, and takes the token into its sums from registers. Nobody else reads them in that launch.
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
from bough.kernels.gpu.attention_decode_split import DecodeSplits, DecodeWorkspace, check_workspace, leave_part
from bough.kernels.gpu.attention_heads import HeadOperands, new_key_value, rotated_heads
from bough.kernels.gpu.attention_shared import (
    SharedPrefixes,
    decode_options,
    launch_shared,
    prefix_of_line,
    take_prefix,
)

# Rows of a matrix product: the least that tensor cores take.
_GROUP_ROWS = 16


@triton.jit
def _load_pages(pages_ptr, start, first_token, end, PAGE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Page of each token of a block, or the one page that the block is; 0 for tokens that are not seen."""
    if BLOCK_N == PAGE:
        pages = tl.load(pages_ptr + start // PAGE, mask=start < end, other=0)
    else:
        tokens = start + tl.arange(0, BLOCK_N)
        pages = tl.load(pages_ptr + tokens // PAGE, mask=(tokens >= first_token) & (tokens < end), other=0)
    return pages


@triton.jit
def _attend_part(
    acc, total, top, queries, keys_ptr, values_ptr, pages_ptr, begin, end, first_token, score_scale,
    KV_HEADS: tl.constexpr, GROUP_ROWS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr, BLOCK_N: tl.constexpr, SKIP: tl.constexpr,
):  # fmt: skip
    """Go on with the softmax over the tokens [begin, end): sums of values, of weights, and highest scores.

    SKIP: tokens before first_token, which lies in the first block of all, are not seen.
    """
    dims = tl.arange(0, BLOCK_D)
    at_slot = (tl.arange(0, BLOCK_N) % PAGE * HEAD_DIM)[:, None] + dims[None, :]
    page = _load_pages(pages_ptr, begin, first_token, end, PAGE, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        tokens = start + tl.arange(0, BLOCK_N)
        visible = tokens < end
        if SKIP:
            visible = visible & (tokens >= first_token)
        if BLOCK_N == PAGE:
            slots = page.to(tl.int64) * (KV_HEADS * PAGE * HEAD_DIM) + at_slot
        else:
            slots = (page.to(tl.int64) * (KV_HEADS * PAGE * HEAD_DIM))[:, None] + at_slot
        # The pages of the next block are asked for now, so that its loads can go out without waiting for them.
        page = _load_pages(pages_ptr, start + BLOCK_N, first_token, end, PAGE, BLOCK_N)
        # Slots beyond the context hold anything, NaN too: they are not read, as zero times NaN would spoil the sum.
        readable = visible[:, None] & (dims[None, :] < HEAD_DIM)
        keys = tl.load(keys_ptr + slots, mask=readable, other=0.0)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * score_scale
        scores = tl.where(visible[None, :], scores, float("-inf"))
        # Every block holds a visible token, or the sums hold one already: the maximum is finite.
        new_top = tl.maximum(top, tl.max(scores, 1))
        shrink = tl.exp2(top - new_top)
        weights = tl.exp2(scores - new_top[:, None])
        total = total * shrink + tl.sum(weights, 1)
        values = tl.load(values_ptr + slots, mask=readable, other=0.0)
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        top = new_top
    return acc, total, top


@triton.jit
def _decode_kernel(
    out_ptr, queries_ptr, keys_ptr, values_ptr, page_table_ptr, rows_ptr, context_lens_ptr,
    partial_ptr, stats_ptr, counters_ptr, max_pages, score_scale, rotary_ptr, query_norm_ptr, key_norm_ptr, eps,
    places_ptr, prefix_tokens_ptr, prefix_count_ptr, prefix_partials_ptr, prefix_stats_ptr,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_POW2: tl.constexpr, GROUP_ROWS: tl.constexpr,
    HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr,
    NUM_SPLITS: tl.constexpr, SPLITS_POW2: tl.constexpr, MIN_SPLIT_BLOCKS: tl.constexpr, CHUNK: tl.constexpr,
    PDL: tl.constexpr, PROJECTED: tl.constexpr, NORM_QUERY: tl.constexpr, NORM_KEY: tl.constexpr,
    SHARED: tl.constexpr, BLOCK_LINES: tl.constexpr, SHARED_BLOCK_N: tl.constexpr, SHARED_WAVE: tl.constexpr,
    SHARED_LEAST: tl.constexpr,
):  # fmt: skip
    """PROJECTED: queries_ptr has all projected heads of a token, and its key and value are not in the cache yet.

    SHARED: sums over the prefix of some lines are there, see `attention_shared`; with neither a window nor PROJECTED.
    """
    kv_head = tl.program_id(0)
    line = tl.program_id(1)
    split = tl.program_id(2)
    context = tl.load(context_lens_ptr + line)
    row = tl.load(rows_ptr + line)
    if PDL:
        # Every program waits, also one without work: a launch that ended before the one it follows would let the next
        # one through too early.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()

    first_token = 0
    if WINDOW > 0:
        first_token = tl.maximum(context - WINDOW, 0)
    if SHARED:
        place, first_token = prefix_of_line(places_ptr, prefix_tokens_ptr, line, BLOCK_LINES)
    first_block = first_token // BLOCK_N
    num_blocks = tl.cdiv(context, BLOCK_N) - first_block
    per_split = tl.maximum(tl.cdiv(num_blocks, NUM_SPLITS), MIN_SPLIT_BLOCKS)
    used = tl.cdiv(num_blocks, per_split)
    if split >= used:  # also a padding line: it has no blocks
        return
    begin = (first_block + split * per_split) * BLOCK_N
    end = tl.minimum(begin + per_split * BLOCK_N, context)

    heads = tl.arange(0, GROUP_ROWS)
    dims = tl.arange(0, BLOCK_D)
    real = (heads[:, None] < GROUP) & (dims[None, :] < HEAD_DIM)
    at = heads[:, None] * HEAD_DIM + dims[None, :]
    pair = (line * KV_HEADS + kv_head).to(tl.int64)
    pages_ptr = page_table_ptr + row.to(tl.int64) * max_pages
    keys_ptr += kv_head * (PAGE * HEAD_DIM)
    values_ptr += kv_head * (PAGE * HEAD_DIM)
    top = tl.full([GROUP_ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([GROUP_ROWS], dtype=tl.float32)
    acc = tl.zeros([GROUP_ROWS, BLOCK_D], dtype=tl.float32)
    if PROJECTED:
        HEADS: tl.constexpr = KV_HEADS * GROUP
        last = context - 1
        token_ptr = queries_ptr + line.to(tl.int64) * ((HEADS + 2 * KV_HEADS) * HEAD_DIM)
        queries = rotated_heads(
            token_ptr + kv_head * (GROUP * HEAD_DIM), rotary_ptr, query_norm_ptr, last, eps,
            GROUP, GROUP_POW2, GROUP_ROWS, HEAD_DIM, BLOCK_D, NORM_QUERY,
        )  # fmt: skip
        if split == used - 1:
            page = tl.load(pages_ptr + last // PAGE).to(tl.int64)
            key, value = new_key_value(
                token_ptr, rotary_ptr, key_norm_ptr, keys_ptr, values_ptr,
                page * (KV_HEADS * PAGE * HEAD_DIM) + last % PAGE * HEAD_DIM, last, kv_head, eps,
                HEADS, KV_HEADS, HEAD_DIM, BLOCK_D, NORM_KEY,
            )  # fmt: skip
            top = tl.sum(queries.to(tl.float32) * key.to(tl.float32), 1) * score_scale
            total += 1.0
            acc += value.to(tl.float32)
            end = last
    else:
        queries = tl.load(queries_ptr + pair * (GROUP * HEAD_DIM) + at, mask=real, other=0.0)
    if SHARED:
        begins = (split == 0) & (first_token > 0)
        if begins:
            acc, total, top = take_prefix(
                prefix_partials_ptr, prefix_stats_ptr, prefix_count_ptr, place, first_token, kv_head,
                KV_HEADS, GROUP, GROUP_POW2, GROUP_ROWS, BLOCK_LINES, HEAD_DIM, BLOCK_D, SHARED_BLOCK_N, SHARED_WAVE,
                SHARED_LEAST, CHUNK,
            )  # fmt: skip
    acc, total, top = _attend_part(
        acc, total, top, queries, keys_ptr, values_ptr, pages_ptr, begin, end, first_token, score_scale,
        KV_HEADS, GROUP_ROWS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW > 0 or SHARED,
    )  # fmt: skip

    out_ptr += pair * (GROUP * HEAD_DIM)
    if NUM_SPLITS == 1:
        tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=real)
    else:
        if used == 1:
            tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=real)
        else:
            leave_part(
                out_ptr, partial_ptr + pair * (NUM_SPLITS * GROUP * HEAD_DIM),
                stats_ptr + pair * (NUM_SPLITS * 2 * GROUP), counters_ptr + pair, acc, total, top, at, real,
                split, used, GROUP, GROUP_POW2, GROUP_ROWS, HEAD_DIM, BLOCK_D, SPLITS_POW2, CHUNK,
            )  # fmt: skip


@dataclass(frozen=True)
class DecodeConfig:
    """How a decode program is cut: tokens a block, warps, and blocks on the way (software pipeline stages)."""

    block_n: int
    num_warps: int
    num_stages: int


def decode_config(head_dim: int, dtype: torch.dtype) -> DecodeConfig:
    """The configuration for a head dimension and a dtype."""
    if dtype == torch.float32:
        # Without tensor cores the operands of a product sit in registers: small blocks, more threads.
        return DecodeConfig(block_n=16, num_warps=4, num_stages=2)
    if head_dim > 128:
        return DecodeConfig(block_n=32, num_warps=4, num_stages=3)
    # One warp a page: many small programs keep more loads under way than few large ones (measured on an H200).
    return DecodeConfig(block_n=16, num_warps=1, num_stages=3)


def paged_decode_attention(
    queries: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, rows: Tensor, context_lens: Tensor, *,
    scale: float, window: int | None, out: Tensor, workspace: DecodeWorkspace, num_splits: int,
    min_split_tokens: int = 64, pdl: bool = False, config: DecodeConfig | None = None,
    shared: SharedPrefixes | None = None,
) -> Tensor:  # fmt: skip
    """Attention of one query token a line over its pages, its own key and value included.

    Index tensors are trusted: what they hold is read by the device and never checked.

    Args:
        queries: [B, H, D] bfloat16, float16 or float32; D a multiple of 16 up to 256, up to 16 heads a key-value head.
        keys: [num_pages, kv_heads, 16, D].
        values: like keys.
        page_table: [max_rows, max_pages] int32, the pages of a row in order.
        rows: [B] int32, the row of each line.
        context_lens: [B] int32, tokens of the row in the cache, this one included; 0 is a padding line: nothing of it
            is read, and its part of `out` is left alone.
        scale: factor of the scores, positive.
        window: tokens that are seen, the own one included; None for all.
        out: [B, H, D].
        workspace: from `decode_workspace`, for at least B lines and `num_splits` parts.
        num_splits: parts a context is cut into at most, 1 to 128; fixed when a CUDA graph is captured.
        min_split_tokens: a part has at least this many tokens, so that a short context is not cut.
        pdl: launch while the kernel before still runs (programmatic dependent launch). `rows` and `context_lens` are
            read at once; the kernels that write them must have ended when the one before this starts.
        config: replaces the tuned configuration.
        shared: prefixes that lines share, which a launch before the main one attends to once for all; without a window
            and without `pdl`.

    Returns:
        `out`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    require(shared is None or (window is None and not pdl), "shared prefixes exclude a window and pdl")
    shape = check_cache(queries, keys, values, out)
    options = _Options(scale, window, DecodeSplits(num_splits, min_split_tokens), pdl, shared=shared)
    _start((out, queries, keys, values, page_table, rows, context_lens), shape, options, workspace, config)
    return out


def projected_decode_attention(
    projected: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, rows: Tensor, context_lens: Tensor, *,
    heads: HeadOperands, scale: float, window: int | None, out: Tensor, workspace: DecodeWorkspace, num_splits: int,
    min_split_tokens: int = 64, pdl: bool = False, config: DecodeConfig | None = None,
) -> Tensor:  # fmt: skip
    """`norm_rope_store` and `paged_decode_attention` of one token a line in one launch.

    Args:
        projected: [B, (H + 2 * KV) * D], contiguous: queries, keys and values of the lines' newest tokens.
        keys: as for `paged_decode_attention`; each line's newest key is written to its place.
        values: like keys.
        page_table: as for `paged_decode_attention`.
        rows: likewise.
        context_lens: likewise, the newest token included, whose position is one less.
        heads: norms and rotation.
        scale: as for `paged_decode_attention`.
        window: likewise.
        out: [B, H, D].
        workspace: as for `paged_decode_attention`.
        num_splits: likewise.
        min_split_tokens: likewise.
        pdl: likewise.
        config: likewise.

    Returns:
        `out`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    require(out.dim() == 3, f"out must be [tokens, heads, head_dim], not {list(out.shape)}")
    num_lines, num_heads, head_dim = out.shape
    options = _Options(scale, window, DecodeSplits(num_splits, min_split_tokens), pdl, heads)
    shape = check_cache(out, keys, values, out)
    width = (num_heads + 2 * shape.num_kv_heads) * head_dim
    require(projected.shape == (num_lines, width), f"projected must be [{num_lines}, {width}]")
    require(projected.dtype == out.dtype and projected.is_contiguous(), "projected must be contiguous, in out's dtype")
    heads.check(head_dim, out.dtype)
    _start((out, projected, keys, values, page_table, rows, context_lens), shape, options, workspace, config)
    return out


@dataclass(frozen=True)
class _Options:
    scale: float
    window: int | None
    splits: DecodeSplits
    pdl: bool
    heads: HeadOperands | None = None
    shared: SharedPrefixes | None = None


def _start(
    tensors: tuple[Tensor, ...],
    shape: AttentionShape,
    options: _Options,
    workspace: DecodeWorkspace,
    config: DecodeConfig | None,
) -> None:
    """Check what both kinds of launches have, and launch; see `_launch`."""
    out, page_table, rows, context_lens = tensors[0], *tensors[4:]
    num_lines, device, splits = out.shape[0], out.device, options.splits
    check_index("page_table", page_table, (None, None), device)
    check_index("rows", rows, (num_lines,), device)
    check_index("context_lens", context_lens, (num_lines,), device)
    check_scalars(options.scale, options.window)
    require(splits.min_tokens >= 1, f"min_split_tokens must be at least 1, not {splits.min_tokens}")
    check_workspace(workspace, shape, num_lines, splits.num_splits, device)
    if num_lines > 0:
        if options.shared is not None:
            launch_shared(tensors[1:6], options.shared, shape, options.scale)
        _launch(tensors, workspace, shape, options, config or decode_config(shape.head_dim, out.dtype))


def _launch(
    tensors: tuple[Tensor, ...],
    workspace: DecodeWorkspace,
    shape: AttentionShape,
    options: _Options,
    config: DecodeConfig,
) -> None:
    """Start the kernel on `tensors`: out, queries or projected heads, keys, values, page_table, rows, context_lens."""
    num_lines, max_pages = tensors[0].shape[0], tensors[4].shape[1]
    num_splits, heads, unused = options.splits.num_splits, options.heads, tensors[0]
    shared = options.shared
    block_d = triton.next_power_of_2(shape.head_dim)
    group_pow2 = triton.next_power_of_2(shape.group)
    splits_pow2 = triton.next_power_of_2(num_splits)
    # 64 float32 a thread of parts that are added up at once.
    chunk = max(1, min(8 if shared is not None else splits_pow2, 64 * 32 * config.num_warps // (group_pow2 * block_d)))
    _decode_kernel[(shape.num_kv_heads, num_lines, num_splits)](
        *tensors,
        workspace.partials,
        workspace.stats,
        workspace.counters,
        max_pages,
        options.scale * LOG2_E,
        unused if heads is None else heads.rotary,
        unused if heads is None or heads.query_norm is None else heads.query_norm,
        unused if heads is None or heads.key_norm is None else heads.key_norm,
        0.0 if heads is None else heads.eps,
        *((unused,) * 5 if shared is None else shared.tensors),
        KV_HEADS=shape.num_kv_heads,
        GROUP=shape.group,
        GROUP_POW2=group_pow2,
        GROUP_ROWS=_GROUP_ROWS,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=block_d,
        PAGE=PAGE_SIZE,
        BLOCK_N=config.block_n,
        WINDOW=options.window or 0,
        NUM_SPLITS=num_splits,
        SPLITS_POW2=splits_pow2,
        MIN_SPLIT_BLOCKS=triton.cdiv(options.splits.min_tokens, config.block_n),
        CHUNK=chunk,
        PDL=options.pdl,
        PROJECTED=heads is not None,
        NORM_QUERY=heads is not None and heads.query_norm is not None,
        NORM_KEY=heads is not None and heads.key_norm is not None,
        **decode_options(shared),
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **({"launch_pdl": True} if options.pdl else {}),
    )
