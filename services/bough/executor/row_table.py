"""State of the running rows as numpy arrays, from which a step's input is built without a loop over decodes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bough.executor.sequence import Sequence
from bough.executor.step import RowWork, StepArrays, StepPlan


class PageChange(NamedTuple):
    """Pages written into a row of the page table, from entry `first` on.

    As an array they are the beginning of the row, which others may have too: it is the same array then.
    """

    row: int
    first: int
    pages: list[int] | npt.NDArray[np.int32]


class RowTable:
    """Page table, next position and last token of each row; a device that holds rows follows the changes."""

    __slots__ = ("_free", "changes", "last_token", "max_pages", "max_rows", "page_size", "page_table", "position")

    def __init__(self, *, max_rows: int, max_pages: int, page_size: int) -> None:
        self.max_rows = max_rows
        self.max_pages = max_pages
        self.page_size = page_size
        self.page_table: npt.NDArray[np.int32] = np.zeros((max_rows, max_pages), np.int32)
        self.changes: list[PageChange] = []
        """Of the page table, in order, since whoever follows them emptied the list."""
        self.position: npt.NDArray[np.int64] = np.zeros(max_rows, np.int64)
        """Next position to compute; valid for decoding rows."""
        self.last_token: npt.NDArray[np.int64] = np.zeros(max_rows, np.int64)
        """Token at `position`; valid for decoding rows whose last token is recorded."""
        self._free = list(range(max_rows - 1, -1, -1))

    @property
    def num_free(self) -> int:
        """Rows that no sequence has."""
        return len(self._free)

    def can_allocate(self) -> bool:
        """Whether a row is free."""
        return bool(self._free)

    def allocate(self, pages: list[int], head: npt.NDArray[np.int32] | None = None) -> int:
        """Takes a free row and writes a sequence's pages into it.

        Args:
            pages: of the sequence, behind the head.
            head: its first pages; never changes, and is read much faster than a list.
        """
        row = self._free.pop()
        start = 0
        if head is not None:
            start = len(head)
            self.page_table[row, :start] = head
            self.changes.append(PageChange(row, 0, head))
        self.page_table[row, start : start + len(pages)] = pages
        self.changes.append(PageChange(row, start, pages.copy()))
        return row

    def grow(self, row: int, index: int, page: int) -> None:
        """Adds a page to a row."""
        self.page_table[row, index] = page
        self.changes.append(PageChange(row, index, [page]))

    def free(self, row: int, num_pages: int) -> None:
        """Gives a row back that used `num_pages` entries of its page table."""
        self.page_table[row, :num_pages] = 0
        self._free.append(row)

    def start_decoding(self, sequence: Sequence) -> None:
        """Sets the decode state of a sequence whose tokens but the last are computed."""
        assert sequence.row is not None
        self.position[sequence.row] = sequence.num_computed
        self.last_token[sequence.row] = sequence.tokens[-1]

    def assemble(self, plan: StepPlan) -> StepArrays:
        """Builds the arrays of a step that is not advanced yet."""
        decode_rows, chunks = plan.decode_rows, plan.chunks
        positions = self.position[decode_rows]
        tokens = self.last_token[decode_rows]
        if chunks:
            return self._assemble_mixed(decode_rows, positions, tokens, chunks)
        num_rows = len(decode_rows)
        context_lens = (positions + 1).astype(np.int32)
        width = int(positions.max()) // self.page_size + 1
        return StepArrays(
            tokens=tokens,
            positions=positions,
            slots=self._slots(decode_rows, positions),
            query_start=np.arange(num_rows + 1, dtype=np.int32),
            context_lens=context_lens,
            page_table=self.page_table[:, :width].take(decode_rows, axis=0),
            logit_rows=np.arange(num_rows, dtype=np.int64),
            rows=decode_rows,
            num_decode_rows=num_rows,
        )

    def _slots(self, rows: npt.NDArray[np.int64], positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        pages, offsets = np.divmod(positions, self.page_size)
        return self.page_table[rows, pages].astype(np.int64) * self.page_size + offsets

    def _assemble_mixed(
        self,
        decode_rows: npt.NDArray[np.int64],
        decode_positions: npt.NDArray[np.int64],
        decode_tokens: npt.NDArray[np.int64],
        chunks: list[RowWork],
    ) -> StepArrays:
        num_decodes = len(decode_rows)
        lengths = np.array([work.num_tokens for work in chunks], np.int64)
        starts = np.array([work.start for work in chunks], np.int64)
        rows = np.concatenate([decode_rows, np.array([work.sequence.row for work in chunks], np.int64)])
        query_lens = np.concatenate([np.ones(num_decodes, np.int64), lengths])
        query_start = np.zeros(len(rows) + 1, np.int32)
        np.cumsum(query_lens, out=query_start[1:])
        context_lens = np.concatenate([decode_positions + 1, starts + lengths]).astype(np.int32)
        # Position of a chunk's token: its index in the step, shifted so that the chunk begins at its start.
        chunk_begins = query_start[num_decodes:-1].astype(np.int64)
        chunk_positions = np.arange(num_decodes, query_start[-1]) + np.repeat(starts - chunk_begins, lengths)
        packed = b"".join(work.packed() for work in chunks)
        positions = np.concatenate([decode_positions, chunk_positions])
        samples = np.array([1] * num_decodes + [work.num_samples for work in chunks], np.int64)
        width = (int(context_lens.max()) + self.page_size - 1) // self.page_size
        return StepArrays(
            tokens=np.concatenate([decode_tokens, np.frombuffer(packed, "<u4").astype(np.int64)]),
            positions=positions,
            slots=self._slots(np.repeat(rows, query_lens), positions),
            query_start=query_start,
            context_lens=context_lens,
            page_table=self.page_table[:, :width].take(rows, axis=0),
            logit_rows=_last_of_each(query_start[1:].astype(np.int64), samples),
            rows=rows,
            num_decode_rows=num_decodes,
        )


def _last_of_each(ends: npt.NDArray[np.int64], counts: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The last `counts[i]` numbers below `ends[i]`, for each i in turn."""
    before = np.cumsum(counts) - counts
    found: npt.NDArray[np.int64] = np.arange(int(counts.sum())) + np.repeat(ends - counts - before, counts)
    return found
