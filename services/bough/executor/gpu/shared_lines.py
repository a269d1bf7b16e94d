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
_MOST_LEVELS = 4
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


def find_groups(page_table: Pages, rows: Indices, num_full: Indices, least_saved: int = 1) -> list[PrefixGroup]:
    """Disjoint groups of lines that save most, each with all the full pages that its lines share.

    A prefix that many lines share competes with longer ones that some of them share. All groups of a level are looked
    at together: it is called between two steps, and a step of hundreds of lines takes but a few milliseconds.

    Args:
        page_table: [R, P]; full pages that are equal come after equal ones.
        rows: [B] row of each line.
        num_full: [B] full pages of each line.
        least_saved: pages that all groups together must be able to save for a search to be worth it.
    """
    search = _Search(page_table, rows, num_full)
    level = search.split(np.arange(len(rows)), np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64))
    # No group can save more than all full pages of all its lines but one.
    if level.sizes.sum() == 0 or search.most_saved(level) < least_saved:
        return []
    levels = [level]
    for _ in range(_MOST_LEVELS - 1):
        levels.append(search.below(levels[-1]))
    best: list[list[PrefixGroup]] = []
    for upper in reversed(levels):
        best = upper.best(best)
    return [group for groups in best for group in groups]


@dataclass(frozen=True, slots=True)
class _Level:
    """Groups of two lines and more at one depth, behind one another."""

    lines: Indices
    """Of all groups."""
    sizes: Indices
    """[G] lines of each."""
    num_pages: Indices
    """[G] that its lines share."""
    parents: Indices
    """[G] group of the level above that each is part of."""

    @property
    def starts(self) -> Indices:
        """[G] where each begins in `lines`."""
        return np.cumsum(self.sizes) - self.sizes

    def best(self, below: list[list[PrefixGroup]]) -> list[list[PrefixGroup]]:
        """What saves most among each group and the best of those below it; by their parent."""
        found: list[list[PrefixGroup]] = [[] for _ in range(int(self.parents.max()) + 1 if len(self.parents) else 0)]
        numbers = zip(self.starts.tolist(), self.sizes.tolist(), self.num_pages.tolist(), strict=True)
        for index, (start, size, num_pages) in enumerate(numbers):
            parts = below[index] if index < len(below) else []
            if num_pages >= LEAST_PAGES and (size - 1) * num_pages >= sum(part.saved_pages for part in parts):
                parts = [PrefixGroup(self.lines[start : start + size], num_pages)]
            found[self.parents[index]] += parts
        return found


@dataclass(frozen=True, slots=True)
class _Search:
    page_table: Pages
    rows: Indices
    num_full: Indices

    def split(self, lines: Indices, parents: Indices, columns: Indices) -> _Level:
        """Groups of lines of the same parent that have the same page at their parent's column."""
        has_page = self.num_full[lines] > columns
        lines, parents, columns = lines[has_page], parents[has_page], columns[has_page]
        pages = self.page_table[self.rows[lines], columns]
        order = np.lexsort((pages, parents))
        lines, parents, pages = lines[order], parents[order], pages[order]
        is_new = (np.diff(pages) != 0) | (np.diff(parents) != 0)
        bounds = np.concatenate(([0], np.flatnonzero(is_new) + 1, [len(lines)]))
        sizes = np.diff(bounds)
        kept = np.repeat(sizes > 1, sizes)
        starts, sizes = bounds[:-1][sizes > 1], sizes[sizes > 1]
        common = self._common_pages(lines[kept], np.repeat(lines[starts], sizes), columns[order][kept] + 1)
        begin = np.cumsum(sizes) - sizes
        num_pages = np.minimum.reduceat(common, begin) if len(begin) else sizes
        return _Level(lines[kept], sizes, num_pages, parents[starts])

    def below(self, level: _Level) -> _Level:
        """The groups within each group of a level."""
        parents = np.repeat(np.arange(len(level.sizes)), level.sizes)
        return self.split(level.lines, parents, level.num_pages[parents])

    def most_saved(self, level: _Level) -> int:
        """Pages that the groups of a level could save at most."""
        most = np.maximum.reduceat(self.num_full[level.lines], level.starts)
        return int(((level.sizes - 1) * most).sum())

    def _common_pages(self, lines: Indices, others: Indices, known: Indices) -> Indices:
        """Pages that each line has in common with another at the beginning, of which some are known; by halving."""
        low, high = known, np.minimum(self.num_full[lines], self.num_full[others])
        rows, other_rows = self.rows[lines], self.rows[others]
        last = self.page_table.shape[1] - 1
        while (low < high).any():
            middle = (low + high) // 2
            at = np.minimum(middle, last)
            same = (self.page_table[rows, at] == self.page_table[other_rows, at]) & (low < high)
            low = np.where(same, middle + 1, low)
            high = np.where(same | (low >= high), high, middle)
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
        page_bytes = 2 * table.page_size * shape.num_kv_heads * shape.head_dim * dtype.itemsize
        self._least_saved = -(-LEAST_SAVED_BYTES // page_bytes)
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
        self._decode_rows, self._are_worth_it = None, False  # should the search fail, another one follows
        blocks = self._blocks(decode_rows) if len(decode_rows) > 1 else []
        are_worth_it = sum(block.saved_pages for block in blocks) >= self._least_saved
        if are_worth_it:
            self._stage(arena, blocks)
        self._decode_rows, self._are_worth_it = decode_rows, are_worth_it
        return are_worth_it

    def _blocks(self, decode_rows: Indices) -> list[PrefixGroup]:
        """Groups cut to what one program takes, those that save most."""
        num_full = self._table.position[decode_rows] // self._table.page_size
        groups = find_groups(self._table.page_table, decode_rows, num_full, self._least_saved)
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
