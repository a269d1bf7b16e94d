"""Deterministic automata of expressions without references, as rules that call others only at their end.

xgrammar follows rules of this form as they stand and knows their masks beforehand. There are never two ways at once, so
that no expression is slow to match.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bough.grammar.ebnf import (
    EMPTY,
    Alt,
    Expr,
    Literal,
    OneOf,
    Ranges,
    Ref,
    Repeat,
    Seq,
    alt,
    normalize,
    seq,
)
from bough.grammar.smallest import merge_states

MAX_NFA_STATES = 50_000
MAX_VISITS = 300_000
"""States of the one met while the other is made: some tenths of a second."""
MAX_UNMERGED_STATES = 4096
"""Of the deterministic automaton of one expression, before states that accept the same are merged."""
MAX_STATES = 512
"""Of the smallest one."""
MAX_JOINED_STATES = 1024
"""Of the smallest one for what several expressions have in common, which may be a state for each character."""


class AutomatonError(ValueError):
    """The expression takes too many states, or too long to find them."""


class TooManyStatesError(AutomatonError):
    """Only the deterministic automaton is too large."""


States = tuple[frozenset[int], ...]
"""For each of some expressions, where a text so far may have led to in it."""


@dataclass(slots=True)
class _Nfa:
    """States by number: where they lead without a character, and with one of a set."""

    empty: list[list[int]] = field(default_factory=list)
    steps: list[list[tuple[Ranges, int]]] = field(default_factory=list)
    ends: set[int] = field(default_factory=set)
    """States behind whole expressions."""
    num_visits: int = 0
    """States and ways between them that were looked at."""
    known: dict[frozenset[int], dict[int, frozenset[int]]] = field(default_factory=dict)
    """What `targets` has found."""

    def state(self) -> int:
        if len(self.empty) >= MAX_NFA_STATES:
            raise AutomatonError(f"takes more than {MAX_NFA_STATES} states; its counts are too large")
        self.empty.append([])
        self.steps.append([])
        return len(self.empty) - 1

    def whole(self, expr: Expr) -> int:
        """Add an expression by itself; returns the state before it."""
        start = self.state()
        self.ends.add(self._after(self.add(expr, start)))
        return start

    def add(self, expr: Expr, start: int) -> int:
        """Add an expression behind a state; returns the state behind it."""
        match expr:
            case Literal(text):
                for char in text:
                    start = self._step(start, ((ord(char), ord(char)),))
            case OneOf(ranges):
                start = self._step(start, ranges)
            case Seq(parts):
                for part in parts:
                    start = self.add(part, start)
            case Alt(options):
                end = self.state()
                for option in options:
                    self.empty[self.add(option, self._after(start))].append(end)
                start = end
            case Repeat(part, least, most):
                start = self._repeat(part, least, most, start)
            case _:
                raise AssertionError(f"{expr!r} has references")
        return start

    def _repeat(self, part: Expr, least: int, most: int | None, start: int) -> int:
        for _ in range(least):
            start = self.add(part, start)
        if most is None:
            loop = self._after(start)
            self.empty[self.add(part, loop)].append(loop)
            return self._after(loop)
        end = self.state()
        for _ in range(most - least):
            self.empty[start].append(end)
            start = self.add(part, self._after(start))
        self.empty[start].append(end)
        return end

    def _step(self, start: int, ranges: Ranges) -> int:
        end = self.state()
        self.steps[start].append((ranges, end))
        return end

    def _after(self, start: int) -> int:
        """A fresh state, so that what leads back to it does not lead to what came before."""
        end = self.state()
        self.empty[start].append(end)
        return end

    def cuts(self) -> list[int]:
        """Where a range of some step begins, or has just ended: within two of them all characters lead alike."""
        ranges = [found for steps in self.steps for found, _ in steps]
        return sorted({cut for found in ranges for low, high in found for cut in (low, high + 1)})

    def visit(self, count: int) -> None:
        """Count what was looked at. AutomatonError where that was too much."""
        self.num_visits += count
        if self.num_visits > MAX_VISITS:
            raise AutomatonError("has too many ways through its counts; simplify it")

    def closure(self, states: set[int]) -> frozenset[int]:
        stack, found = list(states), set(states)
        while stack:
            targets = self.empty[stack.pop()]
            fresh = [target for target in targets if target not in found]
            found.update(fresh)
            stack += fresh
            self.visit(1 + len(targets))
        # Only those with steps, and the ends, tell one set from another.
        return frozenset(state for state in found if self.steps[state] or state in self.ends)

    def accepts(self, states: frozenset[int]) -> bool:
        """Whether a text may end there."""
        return not states.isdisjoint(self.ends)

    def targets(self, states: frozenset[int], cuts: list[int]) -> dict[int, frozenset[int]]:
        """Where a set of states leads, by the pieces between the cuts."""
        if states in self.known:
            return self.known[states]
        by_piece: dict[int, set[int]] = {}
        for state in states:
            for ranges, target in self.steps[state]:
                self.visit(len(ranges))
                for low, high in ranges:
                    for piece in range(bisect_left(cuts, low), bisect_right(cuts, high)):
                        by_piece.setdefault(piece, set()).add(target)
        closures = {key: self.closure(set(key)) for key in {frozenset(targets) for targets in by_piece.values()}}
        found = self.known[states] = {piece: closures[frozenset(targets)] for piece, targets in by_piece.items()}
        return found


def right_linear_rules(name: str, *exprs: Expr) -> dict[str, Expr]:
    """Rules for the texts that all of some expressions have, the first under `name`; each is one state of an automaton.

    Raises:
        AutomatonError: It takes too many states.
    """
    nfa = _Nfa()
    start = tuple(nfa.closure({nfa.whole(expr)}) for expr in exprs)
    cuts = nfa.cuts()
    numbers = {start: 0}
    moves: list[dict[int, list[int]]] = []
    queue = [start]
    for states in queue:  # grows while it is walked
        found: dict[int, list[int]] = {}
        for target, pieces in _moves(nfa, states, cuts).items():
            if target not in numbers:
                numbers[target] = len(numbers)
                queue.append(target)
                if len(numbers) > MAX_UNMERGED_STATES:
                    raise TooManyStatesError(f"takes more than {MAX_UNMERGED_STATES} states; simplify it")
            found[numbers[target]] = pieces
        moves.append(found)
    accepting = [all(map(nfa.accepts, states)) for states in queue]
    classes = merge_states(accepting, moves)
    names = {number: f"{name}_s{place}" for place, number in enumerate(dict.fromkeys(classes))}
    names[classes[0]] = name
    most = MAX_STATES if len(exprs) == 1 else MAX_JOINED_STATES
    if len(names) > most:
        raise TooManyStatesError(f"takes more than {most} states; simplify it")
    rules: dict[str, Expr] = {}
    for targets, accepts, number in zip(moves, accepting, classes, strict=True):
        if names[number] not in rules:
            ends: list[Expr] = [EMPTY] if accepts else []
            rules[names[number]] = alt(*ends, *_steps(targets, classes, names, cuts))
    return rules


def _steps(
    targets: Mapping[int, Sequence[int]], classes: Sequence[int], names: Mapping[int, str], cuts: Sequence[int]
) -> list[Expr]:
    """A character and the rule behind it, for each rule that a state leads to."""
    pieces_to: dict[int, list[int]] = {}
    for target, pieces in targets.items():
        pieces_to.setdefault(classes[target], []).extend(pieces)
    return [
        seq(OneOf(normalize((cuts[piece], cuts[piece + 1] - 1) for piece in pieces)), Ref(names[number]))
        for number, pieces in pieces_to.items()
    ]


def _moves(nfa: _Nfa, states: States, cuts: list[int]) -> dict[States, list[int]]:
    """Where one set of states for each expression leads, and by which pieces between the cuts."""
    first, *others = (nfa.targets(one, cuts) for one in states)
    found: dict[States, list[int]] = {}
    for piece, target in first.items():
        if all(piece in other for other in others):
            found.setdefault((target, *(other[piece] for other in others)), []).append(piece)
    nfa.visit(len(first) * len(states))
    return found
