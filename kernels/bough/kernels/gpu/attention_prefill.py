"""Causal attention of chunks of tokens over the paged cache: FlashAttention-2 (Dao 2023) with pages read in the kernel.

A program serves one key-value head of one line for a block of query tokens; the rows of its matrix products are those
tokens times the query heads of the group, so that a short chunk fills them too and each page is read once for all
heads. Blocks of keys that every row sees go without a mask; only those on the diagonal, and at the far edge of a
window, have one.

What a block of queries sees may be cut into parts for programs of their own, so that a short chunk with a long context
fills the GPU; see `attention_prefill_split`. Which lines, blocks and parts there are is found on the device, once for
all layers of a step (`attention_prefill_plan`), and programs take them in turn. So the grid depends on T and B alone,
and a CUDA graph that holds the launch can be replayed with other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass

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
from bough.kernels.gpu.attention_prefill_plan import WORDS, PrefillPlan
from bough.kernels.gpu.attention_prefill_split import PrefillWorkspace, check_workspace, leave_part

# Blocks of a launch beyond those that its tokens fill: the last ones of lines are short.
_SPARE_BLOCKS = 4


@triton.jit
def _load_pages(
    pages_ptr, start, first_token, last_token, MASKED: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr
):
    """The page [BLOCK_N] of each token from start on, a multiple of BLOCK_N; 0 for tokens that are not read."""
    if MASKED:
        tokens = start + tl.arange(0, BLOCK_N)
        pages = tl.load(pages_ptr + tokens // PAGE, mask=(tokens >= first_token) & (tokens < last_token), other=0)
    else:
        pages = tl.load(pages_ptr + start // PAGE + tl.arange(0, BLOCK_N) // PAGE)
    return pages


@triton.jit
def _load_block(
    slots_ptr, pages, start, first_token, last_token,
    MASKED: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Keys or values [BLOCK_N, BLOCK_D] of the tokens from start on; `pages` [BLOCK_N] lead to the pages' first values.

    Slots that no row sees hold anything, NaN too: they are not read, as zero times NaN would spoil the sum.
    """
    at = slots_ptr + pages[:, None]
    readable = tl.full([BLOCK_N, BLOCK_D], True, dtype=tl.int1)
    if MASKED:
        tokens = start + tl.arange(0, BLOCK_N)
        readable = ((tokens >= first_token) & (tokens < last_token))[:, None] & readable
    if HEAD_DIM != BLOCK_D:
        readable = readable & (tl.arange(0, BLOCK_D)[None, :] < HEAD_DIM)
    return tl.load(at, mask=readable, other=0.0) if MASKED or HEAD_DIM != BLOCK_D else tl.load(at)


@triton.jit
def _weigh(
    scores, total, top, positions, start, last_token, score_scale,
    BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Go on with the softmax over a block of scores: its weights, the factor for earlier sums, total and top."""
    if MASKED:
        tokens = start + tl.arange(0, BLOCK_N)
        visible = (tokens[None, :] <= positions[:, None]) & (tokens < last_token)[None, :]
        if WINDOW > 0:
            visible = visible & (tokens[None, :] > positions[:, None] - WINDOW)
        scores = tl.where(visible, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1) * score_scale)
    origin = new_top
    if MASKED:
        # A row whose window begins in a later block, or that lies before the part, has seen nothing so far, and
        # infinity less infinity is NaN.
        # A large finite mask would not do: the multiply-add below keeps the digits of its product that rounding
        # took from new_top, and two to the power of their difference can be infinite.
        origin = tl.where(new_top == float("-inf"), 0.0, new_top)
    shrink = tl.exp2(top - origin)
    weights = tl.exp2(scores * score_scale - origin[:, None])
    return weights, shrink, total * shrink + tl.sum(weights, 1), new_top


@triton.jit
def attend_blocks(
    acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, begin, end, first_token, last_token,
    score_scale,
    KV_HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr, BLOCK_N: tl.constexpr,
    WINDOW: tl.constexpr, MASKED: tl.constexpr,
):  # fmt: skip
    """Go on with the softmax over the tokens [begin, end), begin a multiple of BLOCK_N; returns acc, total and top.

    Tokens before first_token and from last_token on are seen by no row and are not read; MASKED may be left out where
    every row sees every token of every block.
    """
    pages = _load_pages(pages_ptr, begin, first_token, last_token, True, PAGE, BLOCK_N)
    for start in range(begin, end, BLOCK_N):
        at_pages = pages.to(tl.int64) * (KV_HEADS * PAGE * HEAD_DIM)
        keys = _load_block(key_slots, at_pages, start, first_token, last_token, MASKED, HEAD_DIM, BLOCK_D, BLOCK_N)
        # The pages of the next block are asked for now, so that its loads can go out without waiting for them.
        if MASKED:
            pages = _load_pages(pages_ptr, start + BLOCK_N, first_token, last_token, True, PAGE, BLOCK_N)
        else:
            ahead = tl.minimum(start + BLOCK_N, end - BLOCK_N)
            pages = _load_pages(pages_ptr, ahead, first_token, last_token, False, PAGE, BLOCK_N)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        weights, shrink, total, top = _weigh(
            scores, total, top, positions, start, last_token, score_scale, BLOCK_N, WINDOW, MASKED
        )
        values = _load_block(value_slots, at_pages, start, first_token, last_token, MASKED, HEAD_DIM, BLOCK_D, BLOCK_N)
        acc = tl.dot(weights.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
    return acc, total, top


@triton.jit
def _attend_part(
    queries, keys_ptr, values_ptr, pages_ptr, lowest, end, begin, stop, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Softmax of a block of queries over the tokens [begin, stop): sums of values and of weights, highest scores.

    The first query is at position `lowest` of its row, the last before `end`; `begin` and `stop` are multiples of
    BLOCK_N, but for a `stop` that is `end`.
    """
    positions = lowest + tl.arange(0, BLOCK_M) // GROUP
    diagonal = (lowest + 1) // BLOCK_N * BLOCK_N
    first_token = 0
    inner = begin
    if WINDOW > 0:
        # Rows of no token see what the last token sees: a row that saw nothing would divide zero by zero.
        positions = tl.minimum(positions, end - 1)
        first_token = tl.maximum(lowest + 1 - WINDOW, 0)
        inner = tl.minimum(tl.cdiv(tl.maximum(end - WINDOW, 0), BLOCK_N) * BLOCK_N, diagonal)
        inner = tl.minimum(tl.maximum(inner, begin), stop)
    diagonal = tl.minimum(tl.maximum(diagonal, inner), stop)
    dims = tl.arange(0, BLOCK_D)
    at_slot = (tl.arange(0, BLOCK_N) % PAGE * HEAD_DIM)[:, None] + dims[None, :]
    key_slots = keys_ptr + at_slot
    value_slots = values_ptr + at_slot

    top = tl.full([BLOCK_M], float("-inf"), dtype=tl.float32)
    total = tl.zeros([BLOCK_M], dtype=tl.float32)
    acc = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    if WINDOW > 0:
        acc, total, top = attend_blocks(
            acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, begin, inner, first_token, end,
            score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, True,
        )  # fmt: skip
    acc, total, top = attend_blocks(
        acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, inner, diagonal, first_token, end,
        score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, False,
    )  # fmt: skip
    acc, total, top = attend_blocks(
        acc, total, top, queries, positions, key_slots, value_slots, pages_ptr, diagonal, stop, first_token, end,
        score_scale, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, BLOCK_N, WINDOW, True,
    )  # fmt: skip
    return acc, total, top


@triton.jit
def _serve_block(
    out_ptr, queries_ptr, keys_ptr, values_ptr, pages_ptr, partials_ptr, tops_ptr, sums_ptr, counters_ptr,
    kv_head, block, query_begin, num_queries, context, first_query, split, num_splits, part_rows, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, SPLIT: tl.constexpr,
    MIN_SPLIT_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Attention of one key-value head's queries from `first_query` of a line on, over one part of what they see.

    `block` numbers such blocks over all lines.
    """
    BLOCK_Q: tl.constexpr = BLOCK_M // GROUP
    lowest = context - num_queries + first_query
    end = tl.minimum(lowest + BLOCK_Q, context)
    first_block = 0
    if WINDOW > 0:
        first_block = tl.maximum(lowest + 1 - WINDOW, 0) // BLOCK_N
    num_blocks = tl.cdiv(end, BLOCK_N) - first_block
    used = 1
    if SPLIT:
        worthwhile = tl.minimum(tl.maximum(num_blocks // MIN_SPLIT_BLOCKS, 1), num_splits)
        per_split = tl.cdiv(num_blocks, worthwhile)
        used = tl.cdiv(num_blocks, per_split)
    else:
        per_split = num_blocks
    if split < used:
        begin = (first_block + split * per_split) * BLOCK_N
        stop = tl.minimum(begin + per_split * BLOCK_N, end)
        index = tl.arange(0, BLOCK_M)
        real = (index < BLOCK_Q * GROUP) & (first_query + index // GROUP < num_queries)
        dims = tl.arange(0, BLOCK_D)
        stored = real[:, None] & (dims[None, :] < HEAD_DIM)
        at_row = (index // GROUP) * (KV_HEADS * GROUP) + index % GROUP
        at = at_row[:, None] * HEAD_DIM + dims[None, :]
        row = ((query_begin + first_query).to(tl.int64) * KV_HEADS + kv_head) * GROUP
        queries = tl.load(queries_ptr + row * HEAD_DIM + at, mask=stored, other=0.0)
        acc, total, top = _attend_part(
            queries, keys_ptr, values_ptr, pages_ptr, lowest, end, begin, stop, score_scale,
            KV_HEADS, GROUP, HEAD_DIM, BLOCK_D, PAGE, BLOCK_M, BLOCK_N, WINDOW,
        )  # fmt: skip
        out_ptr += row * HEAD_DIM
        if SPLIT:
            if used == 1:
                tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=stored)
            else:
                leave_part(
                    out_ptr, partials_ptr + row * HEAD_DIM, tops_ptr + row, sums_ptr + row,
                    counters_ptr + block * KV_HEADS + kv_head, acc, total, top, at, at_row, stored, real,
                    split, used, part_rows, HEAD_DIM, BLOCK_M, BLOCK_D,
                )  # fmt: skip
        else:
            tl.store(out_ptr + at, (acc / total[:, None]).to(out_ptr.dtype.element_ty), mask=stored)


@triton.jit(do_not_specialize=["part_rows"])
def _prefill_kernel(
    out_ptr, queries_ptr, keys_ptr, values_ptr, page_table_ptr, plan_ptr,
    partials_ptr, tops_ptr, sums_ptr, counters_ptr, max_pages, part_rows, score_scale,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, PAGE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WINDOW: tl.constexpr, SPLIT: tl.constexpr,
    MIN_SPLIT_BLOCKS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        # Every program waits, also one without work: a launch that ended before the one it follows would let the next
        # one through too early.
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()
    num_items = tl.load(plan_ptr)
    num_splits = tl.load(plan_ptr + 1)
    num_blocks = tl.load(plan_ptr + 2)
    # Programs without work are the last ones: among the others they would send two with work to one multiprocessor.
    for number in range(tl.program_id(0), num_items * KV_HEADS, tl.num_programs(0)):
        kv_head = number % KV_HEADS
        item = number // KV_HEADS
        # Late blocks have the longest contexts; they go first, so that short ones fill the gaps at the end.
        block = num_blocks - 1 - item // num_splits
        block_ptr = plan_ptr + (1 + block) * WORDS
        row = tl.load(block_ptr)
        context = tl.load(block_ptr + 1)
        query_begin = tl.load(block_ptr + 2)
        num_queries = tl.load(block_ptr + 3)
        first_query = tl.load(block_ptr + 4)
        _serve_block(
            out_ptr, queries_ptr, keys_ptr + kv_head * (PAGE * HEAD_DIM), values_ptr + kv_head * (PAGE * HEAD_DIM),
            page_table_ptr + row.to(tl.int64) * max_pages, partials_ptr, tops_ptr, sums_ptr,
            counters_ptr, kv_head, block, query_begin, num_queries, context,
            first_query, item % num_splits, num_splits, part_rows, score_scale,
            KV_HEADS, GROUP, HEAD_DIM, BLOCK_D, PAGE, BLOCK_M, BLOCK_N, WINDOW, SPLIT, MIN_SPLIT_BLOCKS,
        )  # fmt: skip


def paged_prefill_attention(
    queries: Tensor, keys: Tensor, values: Tensor, page_table: Tensor, plan: PrefillPlan, *,
    scale: float, window: int | None, out: Tensor, pdl: bool = False, workspace: PrefillWorkspace | None = None,
    min_split_tokens: int = 256,
) -> Tensor:  # fmt: skip
    """Causal attention of the last tokens of each line over its pages, which hold their keys and values already.

    Index tensors are trusted: what they hold is read by the device and never checked.

    Args:
        queries: [T, H, D] bfloat16, float16 or float32, line by line; D a multiple of 16 up to 256, up to 16 heads a
            key-value head.
        keys: [num_pages, kv_heads, 16, D].
        values: like keys.
        page_table: [max_rows, max_pages] int32, the pages of a row in order.
        plan: the lines' blocks, from `plan_prefill` for T tokens. What belongs to no line, or to one that is not
            served, is left alone in `out`, and nothing of it is read.
        scale: factor of the scores, positive.
        window: tokens that a token sees, itself included; None for all before it.
        out: [T, H, D].
        pdl: launch while the kernel before still runs (programmatic dependent launch).
        workspace: from `prefill_workspace`; needed for more than one part.
        min_split_tokens: parts have about this many tokens or more. What a block sees is not cut if it is less than two
            of them, and the result then has the bits that it has with one part.

    Returns:
        `out`.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    shape = check_cache(queries, keys, values, out)
    device, num_tokens = queries.device, queries.shape[0]
    check_index("page_table", page_table, (None, None), device)
    check_index("plan.words", plan.words, (WORDS.value * (1 + plan.max_blocks),), device)
    require(num_tokens == plan.num_tokens, f"plan is for {plan.num_tokens} tokens, not {num_tokens}")
    check_scalars(scale, window)
    require(min_split_tokens >= 1, f"min_split_tokens must be at least 1, not {min_split_tokens}")
    if plan.num_lines > 0 and num_tokens > 0:
        check_workspace(workspace, shape, num_tokens, plan.max_blocks, plan.splits, device)
        options = _Options(scale, window or 0, min_split_tokens, pdl)
        _launch((out, queries, keys, values, page_table), plan, workspace, shape, options)
    return out


@dataclass(frozen=True)
class _Options:
    scale: float
    window: int
    min_split_tokens: int
    pdl: bool


def _launch(
    tensors: tuple[Tensor, ...],
    plan: PrefillPlan,
    workspace: PrefillWorkspace | None,
    shape: AttentionShape,
    options: _Options,
) -> None:
    """Start the kernel on `tensors`: out, queries, keys, values, page_table."""
    num_tokens, max_pages = tensors[1].shape[0], tensors[4].shape[1]
    splits, config = plan.splits, plan.config
    is_cut = splits.most > 1
    # Most steps have few chunks among many lines, and a program without work costs a slot of the GPU for a microsecond.
    # Where there are more blocks than programs, a program serves several.
    spare = min(plan.num_lines - 1, 1 if is_cut else _SPARE_BLOCKS)
    programs = triton.cdiv(num_tokens, config.block_m // shape.group) + spare
    if splits.wave:
        programs = max(programs, triton.cdiv(splits.wave, shape.num_kv_heads))
    else:
        programs *= splits.most
    scratch = workspace.tensors if workspace is not None and is_cut else (None,) * 4
    _prefill_kernel[(programs * shape.num_kv_heads,)](
        *tensors,
        plan.words,
        *scratch,
        max_pages,
        num_tokens * shape.num_heads,
        options.scale * LOG2_E,
        KV_HEADS=shape.num_kv_heads,
        GROUP=shape.group,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=triton.next_power_of_2(shape.head_dim),
        PAGE=PAGE_SIZE,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        WINDOW=options.window,
        SPLIT=is_cut,
        MIN_SPLIT_BLOCKS=triton.cdiv(options.min_split_tokens, config.block_n),
        PDL=options.pdl,
        num_warps=config.num_warps,
        num_stages=config.num_stages,
        **({"launch_pdl": True} if options.pdl else {}),
    )
