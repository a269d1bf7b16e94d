"""Lines that begin with the same pages are found, whatever tree of prefixes they hang on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.executor.gpu import shared_lines
from bough.executor.gpu.arena import Arena
from bough.executor.gpu.shared_lines import MOST_BLOCKS, PrefixGroup, SharedLines, find_groups
from bough.executor.row_table import RowTable
from bough.kernels.gpu.attention_checks import AttentionShape

WIDTH = 200


def table_of(*prefixes: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Page table of rows that begin with these pages and go on with one of their own; and how many of these are full.

    What lies behind is the same in all rows.
    """
    table = np.zeros((len(prefixes), WIDTH), np.int32)
    for row, pages in enumerate(prefixes):
        table[row, : len(pages)] = pages
        table[row, len(pages)] = 10_000 + row
    return table, np.array([len(pages) for pages in prefixes], np.int64)


def groups_of(table: tuple[np.ndarray, np.ndarray]) -> list[tuple[list[int], int]]:
    pages, num_full = table
    found = find_groups(pages, np.arange(len(pages)), num_full)
    return sorted((sorted(group.lines.tolist()), group.num_pages) for group in found)


A, B, C = (list(range(start, start + 20)) for start in (100, 200, 300))


def test_rows_that_share_nothing_are_in_no_group() -> None:
    assert groups_of(table_of(A, B, C)) == []


def test_each_prefix_has_the_lines_that_begin_with_it() -> None:
    assert groups_of(table_of(A, B, A, C, B, A)) == [([0, 2, 5], 20), ([1, 4], 20)]


def test_a_short_prefix_is_not_worth_a_block() -> None:
    assert groups_of(table_of(A[:7], A[:7])) == []
    assert groups_of(table_of(A[:8], A[:8])) == [([0, 1], 8)]


def test_a_long_prefix_of_some_wins_over_a_short_one_of_all_where_it_saves_more() -> None:
    system = list(range(8))
    assert groups_of(table_of(system + A, system + A, system + B, system + B, system)) == [([0, 1], 28), ([2, 3], 28)]
    assert groups_of(table_of([*A, 1], [*A, 1], [*A, 2], [*A, 2], A)) == [([0, 1, 2, 3, 4], 20)]


def test_lines_are_those_of_the_step_not_rows() -> None:
    pages, num_full = table_of(A, B, A, C)
    found = find_groups(pages, np.array([3, 2, 0]), num_full[[3, 2, 0]])
    assert [sorted(group.lines.tolist()) for group in found] == [[1, 2]]
    assert find_groups(pages, np.array([1, 0]), num_full[[1, 0]]) == []


def test_the_page_that_is_being_written_is_nobody_elses() -> None:
    pages, _ = table_of(A, A)
    pages[:, 20] = 7
    assert groups_of((pages, np.array([20, 25]))) == [([0, 1], 20)]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1), max_size=12), max_size=12), st.integers(1, 9))
def test_groups_are_disjoint_and_share_their_pages_and_save_at_least_what_one_prefix_saves(
    paths: list[list[int]], pages_a_step: int
) -> None:
    # A path through a binary tree, each step of it some pages that follow from all steps before.
    prefixes = [
        [hash(tuple(path[: step + 1])) % (1 << 30) + page for step in range(len(path)) for page in range(pages_a_step)]
        for path in paths
    ]
    table, num_full = table_of(*prefixes)
    found = find_groups(table, np.arange(len(table)), num_full)
    lines = [line for group in found for line in group.lines.tolist()]
    assert len(lines) == len(set(lines))
    for group in found:
        shared = table[group.lines, : group.num_pages + 1]
        assert (shared[:, :-1] == shared[0, :-1]).all(), "all pages are the same"
        assert (shared[:, -1] != shared[0, -1]).any(), "and no page more is"
    saved = sum(group.saved_pages for group in found)
    for path in paths:
        for depth in range(1, len(path) + 1):
            sharing = sum(other[:depth] == path[:depth] for other in paths)
            if depth * pages_a_step >= shared_lines.LEAST_PAGES:
                assert saved >= (sharing - 1) * depth * pages_a_step


SHAPE = AttentionShape(32, 2, 128)


def staged(table: RowTable, rows: list[int]) -> tuple[bool, Arena]:
    lines = SharedLines(table, SHAPE, torch.bfloat16, num_sms=4)
    arena = Arena(lines.sections, torch.device("cpu"))
    return lines.update(arena, np.array(rows, np.int64)), arena


def filled_table(num_rows: int, shared: int) -> RowTable:
    """Rows that share so many pages and have one of their own."""
    table = RowTable(max_rows=num_rows, max_pages=8192, page_size=16)
    for row in range(num_rows):
        assert table.allocate([*range(shared), 20_000 + row]) == row
        table.position[row] = 16 * shared + 3
    return table


def test_lines_that_save_enough_stand_in_blocks_and_know_their_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_lines, "LEAST_SAVED_BYTES", 2 * 16 * 2 * 128 * 2 * 40 * (6 - 2))
    table = filled_table(8, 40)
    worth, arena = staged(table, [5, 4, 3, 2, 1, 0])
    assert worth
    lines, places = arena.mirror("shared_lines"), arena.mirror("shared_places")
    assert lines.shape == (MOST_BLOCKS, 4)
    assert arena.mirror("shared_count").tolist() == [2]
    assert arena.mirror("shared_tokens")[:2].tolist() == [640, 640]
    assert sorted(lines[:2].flatten().tolist()) == [-1, -1, 0, 1, 2, 3, 4, 5]
    assert (lines[:2, 0] >= 0).all() and (lines[2:] == -1).all()
    for line in range(6):
        assert lines.flatten()[places[line]] == line
    assert places[6:].tolist() == [-1, -1]


def test_what_saves_too_little_is_left_to_each_line() -> None:
    saved_by_a_pair = 2 * 16 * 2 * 128 * 2
    enough = shared_lines.LEAST_SAVED_BYTES // saved_by_a_pair
    assert staged(filled_table(2, enough), [0, 1])[0]
    assert not staged(filled_table(2, enough - 1), [0, 1])[0]
    assert not staged(filled_table(2, enough), [0])[0]
    assert not staged(filled_table(2, enough), [])[0]


def test_the_blocks_that_save_most_are_taken_where_there_are_too_many() -> None:
    table = RowTable(max_rows=2 * MOST_BLOCKS + 4, max_pages=400, page_size=16)
    for pair in range(MOST_BLOCKS + 2):
        for _ in range(2):
            row = table.allocate([1000 * pair + page for page in range(200 + pair)])
            table.grow(row, 200 + pair, 900_000 + row)
            table.position[row] = 16 * (200 + pair)
    worth, arena = staged(table, list(range(table.max_rows)))
    assert worth
    tokens = arena.mirror("shared_tokens").tolist()
    assert len(tokens) == MOST_BLOCKS and min(tokens) == (200 + 2) * 16
    assert arena.mirror("shared_places")[:4].tolist() == [-1] * 4


def test_the_same_rows_are_not_searched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled_table(2, 4096)
    lines = SharedLines(table, SHAPE, torch.bfloat16, num_sms=4)
    arena = Arena(lines.sections, torch.device("cpu"))
    rows = np.array([0, 1], np.int64)
    assert lines.update(arena, rows)
    monkeypatch.setattr(shared_lines, "find_groups", lambda *_: pytest.fail("searched"))
    assert lines.update(arena, rows)


def test_other_rows_are_searched_anew_also_after_a_search_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    table = filled_table(4, 4096)
    table.page_table[2:, 0] += 500_000
    lines = SharedLines(table, SHAPE, torch.bfloat16, num_sms=4)
    arena = Arena(lines.sections, torch.device("cpu"))
    assert lines.update(arena, np.array([0, 1], np.int64))
    apart = np.array([1, 2], np.int64)
    with monkeypatch.context() as patched:
        patched.setattr(shared_lines, "find_groups", lambda *_: [][0])
        with pytest.raises(IndexError):
            lines.update(arena, apart)
    assert not lines.update(arena, apart)
    assert lines.update(arena, np.array([2, 3], np.int64))


def test_the_newest_token_is_never_part_of_a_prefix_also_where_it_begins_a_page() -> None:
    table = filled_table(2, 5000)
    for position, tokens in ((16 * 4500 + 15, 16 * 4500), (16 * 4500, 16 * 4500), (16 * 4500 - 1, 16 * 4499)):
        table.position[:] = position
        worth, arena = staged(table, [0, 1])
        assert worth and arena.mirror("shared_tokens")[0] == tokens


def test_a_group_saves_what_all_but_one_of_its_lines_do_not_read() -> None:
    assert PrefixGroup(np.arange(5), 10).saved_pages == 40
