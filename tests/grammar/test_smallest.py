"""States that accept the same texts are merged, and no others."""

from __future__ import annotations

from bough.grammar.smallest import merge_states


def test_states_that_accept_the_same_are_of_one_class() -> None:
    # 0 -a-> 1 -x-> 3, 0 -b-> 2 -x-> 4, where 3 and 4 accept and lead nowhere
    classes = merge_states([False, False, False, True, True], [{1: [0], 2: [1]}, {3: [2]}, {4: [2]}, {}, {}])
    assert classes[1] == classes[2] and classes[3] == classes[4]
    assert len({classes[0], classes[1], classes[3]}) == 3


def test_states_that_accept_different_texts_are_not() -> None:
    # 1 goes round for ever, 2 ends after one more: the difference shows only behind both
    moves: list[dict[int, list[int]]] = [{1: [0], 2: [1]}, {1: [0]}, {3: [0]}, {}]
    assert len(set(merge_states([False, True, True, True], moves))) == 4


def test_rings_of_equal_states_become_one_state() -> None:
    assert len(set(merge_states([True] * 6, [{(i + 1) % 6: [0]} for i in range(6)]))) == 1
    assert len(set(merge_states([i % 2 == 0 for i in range(6)], [{(i + 1) % 6: [0]} for i in range(6)]))) == 2
