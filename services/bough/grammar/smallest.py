"""Which states of a deterministic automaton accept the same texts (Hopcroft 1971)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Moves = Sequence[Mapping[int, Sequence[int]]]
"""By state, where it leads, and by which symbols; by others it leads nowhere."""


def merge_states(accepting: Sequence[bool], moves: Moves) -> list[int]:
    """The number of a class for each state: states of one class accept the same texts.

    Args:
        accepting: By state, whether a text may end there.
        moves: What leads from one state to another.
    """
    classes = _Classes(accepting)
    before = _sources(moves)
    waiting = set(range(len(classes.members)))
    while waiting:
        splitter = list(classes.members[waiting.pop()])
        for sources in before.values():
            for old, new in classes.split([source for target in splitter for source in sources.get(target, ())]):
                # Of the two halves one is enough, unless the whole still waits; the smaller costs less.
                is_smaller = len(classes.members[new]) <= len(classes.members[old])
                waiting.add(new if old in waiting or is_smaller else old)
    return classes.of


class _Classes:
    """States by what is known of them to be different."""

    def __init__(self, accepting: Sequence[bool]) -> None:
        found = ({state for state, accepts in enumerate(accepting) if accepts is kind} for kind in (True, False))
        self.members = [states for states in found if states]
        self.of = [0] * len(accepting)
        for number, states in enumerate(self.members):
            for state in states:
                self.of[state] = number

    def split(self, states: Sequence[int]) -> list[tuple[int, int]]:
        """Tell some states from the others of their classes; returns (class, the new one made of it)."""
        inside: dict[int, set[int]] = {}
        for state in states:
            inside.setdefault(self.of[state], set()).add(state)
        made: list[tuple[int, int]] = []
        for number, chosen in inside.items():
            if len(chosen) == len(self.members[number]):
                continue
            self.members[number] -= chosen
            made.append((number, len(self.members)))
            for state in chosen:
                self.of[state] = len(self.members)
            self.members.append(chosen)
        return made


def _sources(moves: Moves) -> dict[int, dict[int, list[int]]]:
    """By symbol and state, the states that lead there."""
    before: dict[int, dict[int, list[int]]] = {}
    for state, targets in enumerate(moves):
        for target, symbols in targets.items():
            for symbol in symbols:
                before.setdefault(symbol, {}).setdefault(target, []).append(state)
    return before
