"""Deterministic automata of expressions without references, as rules that call others only at their end.

xgrammar has automata of its own for regular expressions, which are not exact: it takes `(0|[1-9][0-9]*)(e[0-9]+)?` to
match 01. Rules of this form it follows as they stand, knows the masks of beforehand, and never has two ways at once, so
that no expression is slow to match.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
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

MAX_NFA_STATES = 50_000
MAX_STATES = 512
"""Of the deterministic automaton of one expression."""


class AutomatonError(ValueError):
    """The expression takes too many states."""


@dataclass(slots=True)
class _Nfa:
    """States by number: where they lead without a character, and with one of a set."""

    empty: list[list[int]] = field(default_factory=list)
    steps: list[list[tuple[Ranges, int]]] = field(default_factory=list)

    def state(self) -> int:
        if len(self.empty) >= MAX_NFA_STATES:
            raise AutomatonError(f"takes more than {MAX_NFA_STATES} states; its counts are too large")
        self.empty.append([])
        self.steps.append([])
        return len(self.empty) - 1

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

    def closure(self, states: set[int]) -> frozenset[int]:
        stack, found = list(states), set(states)
        while stack:
            fresh = [target for target in self.empty[stack.pop()] if target not in found]
            found.update(fresh)
            stack += fresh
        # Only those with steps, and the last, tell one set from another.
        last = len(self.empty) - 1
        return frozenset(state for state in found if self.steps[state] or state == last)


def right_linear_rules(name: str, expr: Expr) -> dict[str, Expr]:
    """Rules for an expression, the first under `name`; each is one state of its automaton.

    Raises:
        AutomatonError: It takes too many states.
    """
    nfa = _Nfa()
    first = nfa.state()
    nfa.empty[nfa.add(expr, first)].append(nfa.state())
    accepting = len(nfa.empty) - 1
    cuts = sorted(
        {cut for steps in nfa.steps for ranges, _ in steps for low, high in ranges for cut in (low, high + 1)}
    )
    start = nfa.closure({first})
    numbers = {start: 0}
    rules: dict[str, Expr] = {}
    queue = [start]
    for states in queue:  # grows while it is walked
        options: list[Expr] = [EMPTY] if accepting in states else []
        for target, ranges in _moves(nfa, states, cuts).items():
            if target not in numbers:
                numbers[target] = len(numbers)
                queue.append(target)
                if len(numbers) > MAX_STATES:
                    raise AutomatonError(f"takes more than {MAX_STATES} states; simplify it")
            options.append(seq(OneOf(ranges), Ref(_name(name, numbers[target]))))
        rules[_name(name, numbers[states])] = alt(*options)
    return rules


def _name(name: str, number: int) -> str:
    return name if number == 0 else f"{name}_s{number}"


def _moves(nfa: _Nfa, states: frozenset[int], cuts: list[int]) -> dict[frozenset[int], Ranges]:
    """Where a set of states leads, and by which characters."""
    by_piece: dict[int, set[int]] = {}
    for state in states:
        for ranges, target in nfa.steps[state]:
            for low, high in ranges:
                for piece in range(bisect_left(cuts, low), bisect_right(cuts, high)):
                    by_piece.setdefault(piece, set()).add(target)
    closures: dict[frozenset[int], frozenset[int]] = {}
    found: dict[frozenset[int], list[tuple[int, int]]] = {}
    for piece, targets in by_piece.items():
        key = frozenset(targets)
        if key not in closures:
            closures[key] = nfa.closure(targets)
        found.setdefault(closures[key], []).append((cuts[piece], cuts[piece + 1] - 1))
    return {target: normalize(ranges) for target, ranges in found.items()}
