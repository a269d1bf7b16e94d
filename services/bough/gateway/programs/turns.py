"""Whose turn it is: calls on one state run in the order in which they were sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bough.common.errors import BoughError
from bough.gateway.programs.actions import Fork, Release, StateAction, states_of


@dataclass(frozen=True, slots=True)
class _Flaw:
    """Why calls on a state fail that were sent before anybody could know."""

    error: BoughError
    missing: bool
    """The state was never made; else it is about to be released."""


class Turn:
    """A call's place in the queues of its states.

    A call that fails leaves its states as they were, and what waits behind it goes on, with two exceptions: nothing can
    be done with the children of a fork that failed, and what was to follow a generation that a release has cancelled
    would follow something else now.
    """

    def __init__(self, turns: Turns, action: StateAction, start: Callable[[Turn], None]) -> None:
        self._turns = turns
        self._action = action
        self._start = start
        self._flaws: dict[int, _Flaw] = {}
        self._num_before = 0
        self._behind: list[tuple[int, Turn]] = []
        self._broken_off = False
        self.has_come = False

    @property
    def failure(self) -> BoughError | None:
        """What the call fails with on account of an earlier one."""
        flaws = self._flaws
        if isinstance(self._action, Fork):
            # A number that an earlier fork could not give to a state is free.
            flaws = {state: flaw for state, flaw in flaws.items() if state == self._action.state}
        elif isinstance(self._action, Release):
            flaws = {state: flaw for state, flaw in flaws.items() if flaw.missing}
        return next((flaw.error for flaw in flaws.values()), None)

    def break_off(self) -> None:
        """The call is cancelled by a release further behind: what is between them fails as it does."""
        self._broken_off = True

    def done(self, failure: BoughError | None) -> None:
        """The call has ended; it is the turn of those behind it."""
        self._turns.leave(self, states_of(self._action))
        for state, turn in self._behind:
            turn.step(state, self._flaw(state, failure))

    def follow(self, before: Turn, state: int) -> None:
        """Wait for another call on a state."""
        self._num_before += 1
        before._behind.append((state, self))

    def step(self, state: int, flaw: _Flaw | None) -> None:
        """A call before this one has ended."""
        if flaw is not None:
            self._flaws[state] = flaw
        self._num_before -= 1
        self.begin()

    def begin(self) -> None:
        """Start, where nothing is to be waited for any more."""
        if self._num_before == 0:
            self.has_come = True
            self._start(self)

    def _flaw(self, state: int, failure: BoughError | None) -> _Flaw | None:
        """What is wrong with a state after this call."""
        if isinstance(self._action, Fork) and state in self._action.children:
            return None if failure is None else _Flaw(failure, missing=True)
        if self._broken_off and failure is not None:
            return _Flaw(failure, missing=False)
        flaw = self._flaws.get(state)
        if isinstance(self._action, Release) and flaw is not None and not flaw.missing:
            return None
        return flaw


class Turns:
    """The queues of all states."""

    def __init__(self) -> None:
        self._last: dict[int, Turn] = {}

    def take(self, action: StateAction, start: Callable[[Turn], None]) -> Turn:
        """A turn behind all earlier calls on the same states; `start` is called when it has come, perhaps at once."""
        turn = Turn(self, action, start)
        for state in states_of(action):
            if (before := self._last.get(state)) is not None:
                turn.follow(before, state)
            self._last[state] = turn
        turn.begin()
        return turn

    def leave(self, turn: Turn, states: Sequence[int]) -> None:
        """Nobody need wait for a call any more."""
        for state in states:
            if self._last.get(state) is turn:
                del self._last[state]
