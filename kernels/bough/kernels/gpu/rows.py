"""Rows that live on the device: staged changes are scattered into their state, and a step's input is made from it.

Staged data lies in pinned host memory, which the kernels read over the bus: a few kilobytes, and no copy to launch.
Index tensors are trusted: what they hold is read by the device and never checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 256


@triton.jit
def _scatter_kernel(state_ptr, changes_ptr, num_changes, BLOCK: tl.constexpr):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    present = index < num_changes
    place = tl.load(changes_ptr + 2 * index, mask=present, other=0)
    value = tl.load(changes_ptr + 2 * index + 1, mask=present, other=0)
    tl.store(state_ptr + place, value, mask=present)


def scatter_changes(state: Tensor, changes: Tensor, num_changes: int) -> None:
    """Set `state[place] = value` for each of the first `num_changes` pairs (place, value).

    Args:
        state: [N] int32 on the device.
        changes: [C, 2] int32, on the device or pinned; equal places must have equal values.
        num_changes: pairs that count.

    Raises:
        ValueError: a tensor has another type or layout, or there are not so many changes.
    """
    if state.dtype != torch.int32 or state.dim() != 1 or not state.is_contiguous():
        raise ValueError(f"state is {tuple(state.shape)} of {state.dtype}; contiguous [N] of torch.int32 is accepted")
    if changes.dtype != torch.int32 or changes.dim() != 2 or changes.shape[1] != 2 or not changes.is_contiguous():
        raise ValueError(f"changes are {tuple(changes.shape)} of {changes.dtype}; [C, 2] of torch.int32 is accepted")
    if not 0 <= num_changes <= changes.shape[0]:
        raise ValueError(f"num_changes is {num_changes}; 0 to {changes.shape[0]} are accepted")
    if num_changes:
        _scatter_kernel[(triton.cdiv(num_changes, _BLOCK),)](state, changes, num_changes, BLOCK=_BLOCK, num_warps=4)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInput:
    """The tensors on the device that a step's kernels read, of fixed size; T tokens, B lines, S sampling lines.

    A line of attention has one sampling line at most, or one for each of its last tokens where those are drafts.
    """

    tokens: Tensor
    """[T] int64"""
    positions: Tensor
    """[T] int64"""
    slots: Tensor
    """[T] int64: `page * page_size + offset`, -1 for padding."""
    query_start: Tensor
    """[B + 1] int32"""
    rows: Tensor
    """[B] int32 row of each line of attention."""
    decode_lens: Tensor
    """[B] int32: context of lines with one token that the decode kernel serves, 0 for all others."""
    chunk_lens: Tensor
    """[B] int32: context of the lines that the prefill kernel serves, 0 for all others."""
    logit_rows: Tensor
    """[S] int64"""
    sample_rows: Tensor
    """[S] int32 row of each line that samples, -1 for padding; a row with drafts has several."""
    sampled_position: Tensor
    """[S] int32: position in the sequence of the token that is sampled."""

    @classmethod
    def empty(cls, *, max_tokens: int, max_lines: int, max_samples: int, device: torch.device) -> StepInput:
        """Tensors for steps of up to so many tokens, lines and sampling lines."""

        def zeros(size: int, dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        return cls(
            tokens=zeros(max_tokens, torch.int64),
            positions=zeros(max_tokens, torch.int64),
            slots=torch.full((max_tokens,), -1, dtype=torch.int64, device=device),
            query_start=zeros(max_lines + 1, torch.int32),
            rows=zeros(max_lines, torch.int32),
            decode_lens=zeros(max_lines, torch.int32),
            chunk_lens=zeros(max_lines, torch.int32),
            logit_rows=zeros(max_samples, torch.int64),
            sample_rows=torch.full((max_samples,), -1, dtype=torch.int32, device=device),
            sampled_position=zeros(max_samples, torch.int32),
        )

    def first(self, *, num_tokens: int, num_lines: int, num_samples: int) -> StepInput:
        """The same memory, as seen by a step of a smaller size."""
        return StepInput(
            tokens=self.tokens[:num_tokens],
            positions=self.positions[:num_tokens],
            slots=self.slots[:num_tokens],
            query_start=self.query_start[: num_lines + 1],
            rows=self.rows[:num_lines],
            decode_lens=self.decode_lens[:num_lines],
            chunk_lens=self.chunk_lens[:num_lines],
            logit_rows=self.logit_rows[:num_samples],
            sample_rows=self.sample_rows[:num_samples],
            sampled_position=self.sampled_position[:num_samples],
        )


@triton.jit
def _begin_decode_kernel(
    line_rows_ptr,
    token_ptr,
    position_ptr,
    page_table_ptr,
    page_table_stride,
    tokens_ptr,
    positions_ptr,
    slots_ptr,
    rows_ptr,
    decode_lens_ptr,
    sample_rows_ptr,
    sampled_position_ptr,
    num_lines,
    PAGE_SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    line = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = line < num_lines
    row = tl.load(line_rows_ptr + line, mask=inside, other=-1)
    used = row >= 0
    token = tl.load(token_ptr + row, mask=used, other=0)
    position = tl.load(position_ptr + row, mask=used, other=0)
    page = tl.load(page_table_ptr + row.to(tl.int64) * page_table_stride + position // PAGE_SIZE, mask=used, other=0)
    slot = page.to(tl.int64) * PAGE_SIZE + position % PAGE_SIZE
    tl.store(tokens_ptr + line, token.to(tl.int64), mask=inside)
    tl.store(positions_ptr + line, position.to(tl.int64), mask=inside)
    tl.store(slots_ptr + line, tl.where(used, slot, -1), mask=inside)
    tl.store(rows_ptr + line, tl.where(used, row, 0), mask=inside)
    tl.store(decode_lens_ptr + line, tl.where(used, position + 1, 0), mask=inside)
    tl.store(sample_rows_ptr + line, row, mask=inside)
    tl.store(sampled_position_ptr + line, position + 1, mask=inside)


def begin_decode(
    line_rows: Tensor, token: Tensor, position: Tensor, page_table: Tensor, step: StepInput, *, page_size: int
) -> None:
    """Make the input of a step in which each line computes the token its row sampled last.

    Writes all of `step` but `query_start`, `chunk_lens` and `logit_rows`, for as many lines as it has tokens.

    Args:
        line_rows: [L] int32 row of each line, -1 for none; L at least the tokens of `step`.
        token: [R] int32, sampled last in each row.
        position: [R] int32 of that token.
        page_table: [R, P] int32.
        step: of B = S = T lines.
        page_size: tokens in a page.
    """
    num_lines = step.tokens.shape[0]
    if line_rows.shape[0] < num_lines or step.rows.shape[0] < num_lines or step.sample_rows.shape[0] < num_lines:
        raise ValueError(f"line_rows and step must have room for {num_lines} lines")
    _begin_decode_kernel[(triton.cdiv(num_lines, _BLOCK),)](
        line_rows,
        token,
        position,
        page_table,
        page_table.stride(0),
        step.tokens,
        step.positions,
        step.slots,
        step.rows,
        step.decode_lens,
        step.sample_rows,
        step.sampled_position,
        num_lines,
        PAGE_SIZE=page_size,
        BLOCK=_BLOCK,
        num_warps=4,
    )


@triton.jit
def _begin_mixed_kernel(
    staged_ptr,
    token_ptr,
    tokens_ptr,
    positions_ptr,
    slots_ptr,
    query_start_ptr,
    rows_ptr,
    decode_lens_ptr,
    chunk_lens_ptr,
    logit_rows_ptr,
    sample_rows_ptr,
    sampled_position_ptr,
    num_tokens,
    num_lines,
    num_decodes,
    num_samples,
    room_tokens,
    room_lines,
    room_samples,
    BLOCK: tl.constexpr,
):
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    # [tokens | positions | slots | query_start | rows | context_lens | logit_rows | sample_rows | sampled_position]
    lines_ptr = staged_ptr + 3 * num_tokens
    samples_ptr = lines_ptr + 3 * num_lines + 1

    real = index < num_tokens
    inside = index < room_tokens
    decodes = index < num_decodes
    token = tl.load(staged_ptr + index, mask=real, other=0)
    row_of_decode = tl.load(lines_ptr + num_lines + 1 + index, mask=decodes, other=0)
    sampled = tl.load(token_ptr + row_of_decode, mask=decodes, other=0)
    token = tl.where(token < 0, sampled, token)
    position = tl.load(staged_ptr + num_tokens + index, mask=real, other=0)
    slot = tl.load(staged_ptr + 2 * num_tokens + index, mask=real, other=-1)
    tl.store(tokens_ptr + index, token.to(tl.int64), mask=inside)
    tl.store(positions_ptr + index, position.to(tl.int64), mask=inside)
    tl.store(slots_ptr + index, slot.to(tl.int64), mask=inside)

    start = tl.load(lines_ptr + index, mask=index <= num_lines, other=0)
    tl.store(query_start_ptr + index, tl.where(index <= num_lines, start, num_tokens), mask=index <= room_lines)
    is_line = index < num_lines
    row = tl.load(lines_ptr + num_lines + 1 + index, mask=is_line, other=0)
    context = tl.load(lines_ptr + 2 * num_lines + 1 + index, mask=is_line, other=0)
    has_room = index < room_lines
    tl.store(rows_ptr + index, row, mask=has_room)
    tl.store(decode_lens_ptr + index, tl.where(decodes, context, 0), mask=has_room)
    tl.store(chunk_lens_ptr + index, tl.where(decodes, 0, context), mask=has_room)

    samples = index < num_samples
    has_room = index < room_samples
    logit_row = tl.load(samples_ptr + index, mask=samples, other=0)
    sample_row = tl.load(samples_ptr + num_samples + index, mask=samples, other=-1)
    sampled_position = tl.load(samples_ptr + 2 * num_samples + index, mask=samples, other=0)
    tl.store(logit_rows_ptr + index, logit_row.to(tl.int64), mask=has_room)
    tl.store(sample_rows_ptr + index, sample_row, mask=has_room)
    tl.store(sampled_position_ptr + index, sampled_position, mask=has_room)


def begin_mixed(
    staged: Tensor,
    token: Tensor,
    step: StepInput,
    *,
    num_tokens: int,
    num_lines: int,
    num_decodes: int,
    num_samples: int,
) -> None:
    """Make the input of a step of decodes and chunks; what `step` has beyond it is filled as padding.

    Args:
        staged: int32, on the device or pinned, one after the other: tokens [T] (-1: what the line's row sampled last),
            positions [T], slots [T], query_start [B + 1], rows [B], context_lens [B], logit_rows [S], sample_rows [S],
            sampled_position [S].
        token: [R] int32, sampled last in each row.
        step: of at least so many tokens, lines and samples.
        num_tokens: T.
        num_lines: B.
        num_decodes: lines at the beginning, with one token each, that the decode kernel serves.
        num_samples: S.

    Raises:
        ValueError: `staged` is too short, or `step` too small.
    """
    length = 3 * num_tokens + 3 * num_lines + 1 + 3 * num_samples
    if staged.dtype != torch.int32 or staged.dim() != 1 or staged.shape[0] < length:
        raise ValueError(f"staged is {tuple(staged.shape)} of {staged.dtype}; [{length}] of torch.int32 is accepted")
    rooms = step.tokens.shape[0], step.rows.shape[0], step.sample_rows.shape[0]
    if num_tokens > rooms[0] or num_lines > rooms[1] or num_samples > rooms[2] or num_decodes > num_lines:
        raise ValueError(f"{num_tokens} tokens, {num_lines} lines, {num_samples} samples do not fit into {rooms}")
    _begin_mixed_kernel[(triton.cdiv(max(rooms[0], rooms[1] + 1, rooms[2]), _BLOCK),)](
        staged,
        token,
        step.tokens,
        step.positions,
        step.slots,
        step.query_start,
        step.rows,
        step.decode_lens,
        step.chunk_lens,
        step.logit_rows,
        step.sample_rows,
        step.sampled_position,
        num_tokens,
        num_lines,
        num_decodes,
        num_samples,
        *rooms,
        BLOCK=_BLOCK,
        num_warps=4,
    )
