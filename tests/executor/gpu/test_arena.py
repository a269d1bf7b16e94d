"""What the host writes to the arena is what the device has after the next `send`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bough.executor.gpu import arena as arena_module
from bough.executor.gpu.arena import Arena

SECTIONS = {"table": (5, 7), "seed": (10,), "odd": (3,), "token": (5,), "temperature": (5,)}


@pytest.fixture
def arena() -> Arena:
    return Arena(SECTIONS, torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_what_is_put_reaches_the_device_at_the_next_send_and_nothing_else_does(arena: Arena) -> None:
    arena.put("token", 1, [11, 12])
    arena.put("table", 7 * 2 + 3, [5, 6, 7])
    assert not arena.view("token").any()
    arena.send()
    assert arena.view("token").tolist() == [0, 11, 12, 0, 0]
    table = np.zeros((5, 7), np.int32)
    table[2, 3:6] = 5, 6, 7
    assert (arena.view("table").cpu().numpy() == table).all()
    assert (arena.mirror("table") == table).all()
    assert not arena.view("seed").any() and not arena.view("odd").any() and not arena.view("temperature").any()


def test_a_section_can_be_taken_as_floats_or_as_words_of_64_bits(arena: Arena) -> None:
    seed = (1 << 63) + 12345678901
    arena.update("seed", 2 * 2, np.array([seed], np.uint64).view(np.int32))
    arena.update("temperature", 4, np.array([0.7], np.float32).view(np.int32))
    arena.send()
    assert [value % (1 << 64) for value in arena.view("seed", torch.int64).tolist()] == [0, 0, seed, 0, 0]
    assert arena.view("temperature", torch.float32).tolist() == [0.0, 0.0, 0.0, 0.0, np.float32(0.7)]


def test_a_place_that_is_written_twice_has_its_last_value(arena: Arena) -> None:
    arena.put("token", 0, [1, 2, 3])
    arena.put("token", 2, [4, 5])
    arena.update("token", 0, ints(6, 2))
    arena.send()
    assert arena.view("token").tolist() == [6, 2, 4, 5, 0]


def test_what_the_device_changed_by_itself_is_overwritten_by_put_and_not_by_an_update_of_the_same_value(
    arena: Arena,
) -> None:
    arena.put("token", 0, [7, 7])
    arena.send()
    arena.view("token").fill_(99)
    arena.update("token", 0, ints(7, 8))
    arena.send()
    assert arena.view("token").tolist() == [99, 8, 99, 99, 99]
    arena.put("token", 0, [7])
    arena.send()
    assert arena.view("token").tolist() == [7, 8, 99, 99, 99]


def test_a_send_without_changes_uses_no_slot(arena: Arena) -> None:
    for _ in range(3):
        arena.send()
    assert arena._slot == 0


def test_more_changes_than_a_slot_holds_all_arrive(arena: Arena, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arena_module, "_CHANGES_PER_SLOT", 4)
    table = np.arange(35, dtype=np.int32).reshape(5, 7) + 100
    arena.put("table", 0, table.reshape(-1))
    arena.put("token", 0, [1, 2, 3, 4, 5])
    arena.send()  # 40 changes: more than all slots together
    assert (arena.view("table").cpu().numpy() == table).all()
    assert arena.view("token").tolist() == [1, 2, 3, 4, 5]


def test_many_sends_go_round_the_slots(arena: Arena) -> None:
    for number in range(50):
        arena.put("token", number % 5, [number])
        arena.send()
    assert arena.view("token").tolist() == [45, 46, 47, 48, 49]


def test_rows_that_begin_alike_get_it_at_once_and_what_is_written_there_since_counts(arena: Arena) -> None:
    head, other = ints(1, 2, 3, 4), ints(9, 8)
    for row in (0, 2, 3):
        arena.begin_row("table", row, head)
    arena.put("table", 7 * 2 + 3, [50, 51])
    arena.begin_row("table", 3, other)
    arena.begin_row("table", 4, other)
    arena.send()
    table = arena.view("table").cpu().numpy()
    assert table[:, :5].tolist() == [[1, 2, 3, 4, 0], [0] * 5, [1, 2, 3, 50, 51], [9, 8, 3, 4, 0], [9, 8, 0, 0, 0]]
    assert (arena.mirror("table") == table).all()


def test_a_row_that_begins_so_already_is_not_sent(arena: Arena) -> None:
    head = ints(1, 2, 3)
    for _ in range(2):
        for row in (1, 2):
            arena.begin_row("table", row, head)
        arena.send()
        arena.view("table").fill_(99)
    assert arena.view("table").eq(99).all()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("begin"), st.integers(0, 4), st.integers(0, 3)),
            st.tuples(st.just("put"), st.integers(0, 30), st.integers(1, 5)),
            st.tuples(st.just("send"), st.just(0), st.just(0)),
        ),
        max_size=30,
    )
)
def test_whatever_is_written_in_whatever_order_the_device_has_it_after_the_next_send(
    operations: list[tuple[str, int, int]],
) -> None:
    arena = Arena(SECTIONS, torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    heads = [ints(*range(10 * number, 10 * number + length)) for number, length in enumerate((1, 3, 7, 7), 1)]
    expected = np.zeros(35, np.int32)
    for count, (kind, place, number) in enumerate([*operations, ("send", 0, 0)]):
        if kind == "begin":
            arena.begin_row("table", place, heads[number])
            expected[7 * place : 7 * place + len(heads[number])] = heads[number]
        elif kind == "put":
            arena.put("table", place, [100 + count] * number)
            expected[place : place + number] = 100 + count
        else:
            arena.send()
            assert (arena.view("table").cpu().numpy().reshape(-1) == expected).all()
