"""Which blocks of queries a step's chunks have: found once a step, on the device, for the launches of all layers.

A launch of prefill attention has to know how many blocks there are, which line each belongs to and in how many parts
what it sees is cut. That follows from the lengths in device memory alone, so it can be part of a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.attention_checks import AttentionShape, check_index, require
from bough.kernels.gpu.attention_prefill_split import (
    MAX_SPLITS,
    UNCUT,
    PrefillConfig,
    PrefillSplits,
    check_splits,
    choose_prefill_config,
)

MAX_LINES = 4096
WORDS = tl.constexpr(8)
"""int32 of the head (blocks times parts, parts, blocks) and of each block behind it (row, context, first token of the
line in the step, tokens of the line, first query)."""

# A warp of them: with fewer the compiler no longer sees that all threads of a program find the same line.
_LEAST_LINES = 32
_STRIDE = tl.constexpr(32)
_MOST_PARTS = tl.constexpr(MAX_SPLITS)
# In units of what a program that has its multiprocessor for itself takes for a block of keys, measured on an H200 with
# tiles of 64 rows: what a program takes beside the keys, what adding up the first four parts takes, and what each four
# more. A program that shares its multiprocessor takes 6/5 of the time for its keys.
_BEFORE_KEYS = tl.constexpr(4)
_FOUR_PARTS = tl.constexpr(6)
_FOUR_MORE = tl.constexpr(7)


@dataclass(frozen=True, slots=True)
class PrefillPlan:
    """What every launch of prefill attention of a step does, from `plan_prefill`."""

    words: Tensor
    """[(1 + blocks) * WORDS] int32."""
    num_tokens: int
    """Query tokens that it has room for."""
    max_blocks: int
    num_lines: int
    config: PrefillConfig
    splits: PrefillSplits


@triton.jit
def choose_parts(num_programs, most, wave, key_blocks):
    """Parts for every context of a launch of so many programs if none is cut; see `PrefillSplits`.

    The GPU takes programs in waves, each as long as a part of the longest context, key_blocks; then parts are added up.
    """
    parts = 1 + tl.arange(0, _MOST_PARTS)
    programs = num_programs * parts
    pace = tl.where(2 * programs > wave, 6, 5)
    adding = tl.where(parts > 1, _FOUR_PARTS + (parts - 1) // 4 * _FOUR_MORE, 0)
    lasting = tl.cdiv(programs, wave) * (tl.cdiv(key_blocks, parts) + _BEFORE_KEYS) * pace + 5 * adding
    lasting = tl.where(parts <= most, lasting, 1 << 30)
    return tl.argmin(lasting, 0) + 1


@triton.jit(do_not_specialize=["num_lines", "most_parts"])
def _plan_kernel(
    plan_ptr, rows_ptr, query_start_ptr, context_lens_ptr, num_lines, most_parts,
    KV_HEADS: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_N: tl.constexpr, LINES_POW2: tl.constexpr, WAVE: tl.constexpr,
):  # fmt: skip
    """A program a line; the first writes the head."""
    mine = tl.program_id(0)
    lines = tl.arange(0, LINES_POW2)
    present = lines < num_lines
    starts = tl.load(query_start_ptr + lines, mask=present, other=0)
    counts = tl.load(query_start_ptr + lines + 1, mask=present, other=0) - starts
    contexts = tl.load(context_lens_ptr + lines, mask=present, other=0)
    blocks = tl.where(contexts > 0, tl.cdiv(counts, BLOCK_Q), 0)
    if mine == 0:
        total = tl.sum(blocks, 0)
        parts = most_parts
        if WAVE > 0:
            longest = tl.max(tl.where(blocks > 0, contexts, 0), 0)
            parts = choose_parts(total * KV_HEADS, most_parts, WAVE, tl.cdiv(longest, BLOCK_N))
        tl.store(plan_ptr, total * parts)
        tl.store(plan_ptr + 1, parts)
        tl.store(plan_ptr + 2, total)

    begin = tl.load(query_start_ptr + mine)
    count = tl.load(query_start_ptr + mine + 1) - begin
    context = tl.load(context_lens_ptr + mine)
    num_blocks = tl.cdiv(count, BLOCK_Q)
    if context > 0:
        row = tl.load(rows_ptr + mine)
        before = tl.sum(tl.where(lines < mine, blocks, 0), 0)
        for first in range(0, num_blocks, _STRIDE):
            block = first + tl.arange(0, _STRIDE)
            exist = block < num_blocks
            same = tl.zeros([_STRIDE], dtype=tl.int32)
            at = plan_ptr + (1 + before + block) * WORDS
            tl.store(at, same + row, mask=exist)
            tl.store(at + 1, same + context, mask=exist)
            tl.store(at + 2, same + begin, mask=exist)
            tl.store(at + 3, same + count, mask=exist)
            tl.store(at + 4, block * BLOCK_Q, mask=exist)


def plan_prefill(
    rows: Tensor,
    query_start: Tensor,
    context_lens: Tensor,
    *,
    num_tokens: int,
    shape: AttentionShape,
    dtype: torch.dtype,
    splits: PrefillSplits = UNCUT,
    config: PrefillConfig | None = None,
) -> PrefillPlan:
    """Find the blocks of a step's chunks; index tensors are read by the device and never checked.

    Args:
        rows: [B] int32, the row of each line; up to 4,096 lines.
        query_start: [B + 1] int32, ascending from 0: line b has the tokens query_start[b] to query_start[b + 1]. It may
            have none. Tokens from query_start[B] on belong to no line.
        context_lens: [B] int32, tokens of the row in the cache, these ones included; 0 is a line that prefill attention
            does not serve.
        num_tokens: T, which bounds the blocks.
        shape: of the heads.
        dtype: of queries and cache.
        splits: parts that what a block of queries sees is cut into at most; fixed when a CUDA graph is captured. See
            `choose_prefill_splits`.
        config: replaces the tuned configuration.

    Raises:
        ValueError: an argument does not fit; the message names it.
    """
    device, num_lines = rows.device, rows.shape[0]
    check_index("rows", rows, (None,), device)
    require(num_lines <= MAX_LINES, f"rows: at most {MAX_LINES} lines, not {num_lines}")
    check_index("query_start", query_start, (num_lines + 1,), device)
    check_index("context_lens", context_lens, (num_lines,), device)
    check_splits(splits)
    config = config or choose_prefill_config(shape, num_tokens, dtype)
    require(config.block_m >= shape.group, f"config: block_m must hold the {shape.group} heads of a group")
    block_q = config.block_m // shape.group
    max_blocks = num_tokens // block_q + num_lines
    words = torch.empty(WORDS.value * (1 + max_blocks), dtype=torch.int32, device=device)
    if num_lines == 0:
        words.zero_()
        return PrefillPlan(words, num_tokens, max_blocks, num_lines, config, splits)
    _plan_kernel[(num_lines,)](
        words,
        rows,
        query_start,
        context_lens,
        num_lines,
        splits.most,
        KV_HEADS=shape.num_kv_heads,
        BLOCK_Q=block_q,
        BLOCK_N=config.block_n,
        LINES_POW2=max(_LEAST_LINES, triton.next_power_of_2(num_lines)),
        WAVE=splits.wave if splits.most > 1 else 0,
        num_warps=1,
    )
    return PrefillPlan(words, num_tokens, max_blocks, num_lines, config, splits)
