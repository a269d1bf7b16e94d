"""Which lines of a step decode behind the same prefix, so that attention may read its pages once for all of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from bough.executor.gpu.arena import Arena
from bough.executor.row_table import RowTable
from bough.kernels.gpu.attention_checks import AttentionShape
from bough.kernels.gpu.attention_shared import SharedPrefixes, block_lines_of, shared_prefixes

MOST_BLOCKS = 64
LEAST_PAGES = 8
"""Of a prefix that is worth a block."""
LEAST_SAVED_BYTES = 64 << 20
"""A layer must read so much less that it makes up for a launch more; lines that read the same find much of it in L2."""
_MOST_DEPTH = 8
"""Prefixes of prefixes that are looked at; requests that fork at each token are no reason to search for long."""

Pages = npt.NDArray[np.int32]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Lines that begin with the same pages."""

    lines: Indices
    num_pages: int

    @property
    def saved_pages(self) -> int:
        """Pages that are not read again."""
        return (len(self.lines) - 1) * self.num_pages


def find_groups(page_table: Pages, rows: Indices, num_full: Indices) -> list[PrefixGroup]:
    """Disjoint groups of lines that save most, each with all the full pages that its lines share.

    A prefix that many lines share competes with longer ones that some of them share.

    Args:
        page_table: [R, P]; full pages that are equal come after equal ones.
        rows: [B] row of each line.
        num_full: [B] full pages of each line.
    """
    return _Search(page_table, rows, num_full).below(np.arange(len(rows)), 0, 0)


@dataclass(frozen=True, slots=True)
class _Search:
    page_table: Pages
    rows: Indices
    num_full: Indices

    def below(self, lines: Indices, column: int, depth: int) -> list[PrefixGroup]:
        """The groups among lines whose pages before `column` are the same."""
        lines = lines[self.num_full[lines] > column]
        pages = self.page_table[self.rows[lines], column]
        order = np.argsort(pages, kind="stable")
        bounds = np.concatenate(([0], np.flatnonzero(np.diff(pages[order])) + 1, [len(order)]))
        many = np.flatnonzero(np.diff(bounds) > 1)
        found: list[PrefixGroup] = []
        for start, end in zip(bounds[many].tolist(), bounds[many + 1].tolist(), strict=True):
            found += self._best(lines[order[start:end]], column, depth)
        return found

    def _best(self, lines: Indices, column: int, depth: int) -> list[PrefixGroup]:
        """The groups of lines whose pages up to `column` are the same: all of them in one, or those below."""
        whole = PrefixGroup(lines, self._common_pages(lines, column + 1))
        parts = self.below(lines, whole.num_pages, depth + 1) if depth < _MOST_DEPTH else []
        if whole.num_pages >= LEAST_PAGES and whole.saved_pages >= sum(part.saved_pages for part in parts):
            return [whole]
        return parts

    def _common_pages(self, lines: Indices, known: int) -> int:
        """Pages at the beginning of all lines that are the same; `known` of them are."""
        low, high = known, int(self.num_full[lines].min())
        rows, step = self.rows[lines], 8
        while low < high:  # gallop, then halve: prefixes are short beside the longest context
            at = min(low + step, high) - 1
            if (self.page_table[rows, at] == self.page_table[rows[0], at]).all():
                low = at + 1
                step *= 2
            else:
                high = at
                step = max((high - low) // 2, 1)
        return low


class SharedLines:
    """Keeps the device's account of shared prefixes; see `SharedPrefixes`.

    Args:
        table: rows and their pages.
        shape: of the attention heads.
        dtype: of queries and cache.
        num_sms: multiprocessors of the GPU.
    """

    def __init__(self, table: RowTable, shape: AttentionShape, dtype: torch.dtype, num_sms: int) -> None:
        self._table = table
        self._shape = shape
        self._dtype = dtype
        self._num_sms = num_sms
        self._block_lines = block_lines_of(shape)
        self._page_bytes = 2 * table.page_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize
        self._decode_rows: Indices | None = None
        self._are_worth_it = False

    @property
    def sections(self) -> dict[str, tuple[int, ...]]:
        """What they need of the arena."""
        return {
            "shared_lines": (MOST_BLOCKS, self._block_lines),
            "shared_tokens": (MOST_BLOCKS,),
            "shared_count": (1,),
            "shared_places": (self._table.max_rows,),
        }

    def on_device(self, arena: Arena) -> SharedPrefixes:
        """What attention reads, which follows `update`."""
        views = [arena.view(name) for name in self.sections]
        lines, tokens, count, places = views
        return shared_prefixes(self._shape, self._dtype, lines, tokens, count, places, num_sms=self._num_sms)

    def update(self, arena: Arena, decode_rows: Indices) -> bool:
        """Stage the prefixes of a step's lines; the same array as before means the same lines.

        Returns:
            Whether enough is shared to be worth it. If not, nothing is staged.
        """
        if decode_rows is self._decode_rows:
            return self._are_worth_it
        self._decode_rows = decode_rows
        blocks = self._blocks(decode_rows) if len(decode_rows) > 1 else []
        saved = sum(block.saved_pages for block in blocks) * self._page_bytes
        self._are_worth_it = saved >= LEAST_SAVED_BYTES
        if self._are_worth_it:
            self._stage(arena, blocks)
        return self._are_worth_it

    def _blocks(self, decode_rows: Indices) -> list[PrefixGroup]:
        """Groups cut to what one program takes, those that save most."""
        num_full = self._table.position[decode_rows] // self._table.page_size
        groups = find_groups(self._table.page_table, decode_rows, num_full)
        blocks = [
            PrefixGroup(lines, group.num_pages)
            for group in groups
            for lines in np.array_split(group.lines, -(-len(group.lines) // self._block_lines))
        ]
        return sorted(blocks, key=lambda block: -block.saved_pages)[:MOST_BLOCKS]

    def _stage(self, arena: Arena, blocks: list[PrefixGroup]) -> None:
        size = self._block_lines
        lines = np.full(MOST_BLOCKS * size, -1, np.int32)
        places = np.full(self._table.max_rows, -1, np.int32)
        for index, block in enumerate(blocks):
            here = index * size + np.arange(len(block.lines))
            lines[here] = block.lines
            places[block.lines] = here
        arena.update("shared_lines", 0, lines)
        arena.update("shared_places", 0, places)
        tokens = [block.num_pages * self._table.page_size for block in blocks]
        arena.update("shared_tokens", 0, np.array(tokens, np.int32))
        arena.update("shared_count", 0, np.array([len(blocks)], np.int32))
