"""Points in time at which something must happen, kept without a polling loop."""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Timer:
    """One of `Timers`' entries."""

    __slots__ = ("action", "at_s")

    def __init__(self, at_s: float, action: Callable[[], None]) -> None:
        self.at_s = at_s
        self.action: Callable[[], None] | None = action
        """None once run or cancelled."""

    def __lt__(self, other: Timer) -> bool:
        return self.at_s < other.at_s


class Timers:
    """A heap of timers; cancelled ones are dropped lazily, so that setting and cancelling cost O(log n)."""

    def __init__(self) -> None:
        self._heap: list[Timer] = []
        self._num_cancelled = 0

    def __len__(self) -> int:
        return len(self._heap) - self._num_cancelled

    def at(self, at_s: float, action: Callable[[], None]) -> Timer:
        """Run `action` in the first `run_due` at or after a time."""
        timer = Timer(at_s, action)
        heapq.heappush(self._heap, timer)
        return timer

    def cancel(self, timer: Timer) -> None:
        """Forget a timer; does nothing for one that has run."""
        if timer.action is None:
            return
        timer.action = None
        self._num_cancelled += 1
        # Deadlines are mostly far away and cancelled long before: without this the heap would grow with every request.
        if self._num_cancelled > 64 and self._num_cancelled > len(self._heap) // 2:
            self._heap = [t for t in self._heap if t.action is not None]
            heapq.heapify(self._heap)
            self._num_cancelled = 0

    def next_s(self) -> float | None:
        """When the next timer is due; None when there is none."""
        while self._heap and self._heap[0].action is None:
            heapq.heappop(self._heap)
            self._num_cancelled -= 1
        return self._heap[0].at_s if self._heap else None

    def run_due(self, now_s: float) -> None:
        """Run all timers that are due."""
        while (at_s := self.next_s()) is not None and at_s <= now_s:
            action, timer = self._heap[0].action, heapq.heappop(self._heap)
            timer.action = None
            if action is not None:
                action()
