"""Which waiting entry is started next.

Under both policies a request that had begun on an executor that died goes before all others, and a larger priority
before a smaller one. Among the rest `fcfs` keeps the order of arrival and `lpm` prefers the longest cached prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bough.common.config import Policy
from bough.scheduler.executors import Executor
from bough.scheduler.queue import Waiting, WaitingQueue

LPM_WINDOW = 128
"""Entries that lpm compares; bounds the work of a step while thousands wait."""

LPM_MAX_BYPASS = 32
"""How often the entry whose turn it is may be overtaken before it is started whatever its prefix.

So an entry with i entries before it starts after at most (i + 1) x (LPM_MAX_BYPASS + 1) others.
"""


class AdmissionPolicy(Protocol):
    """Chooses from a queue that is not empty."""

    def pick(self, queue: WaitingQueue, executors: Sequence[Executor]) -> Waiting:
        """The entry to start next on one of the executors; it stays in the queue until it is placed."""

    def placed(self, entry: Waiting, queue: WaitingQueue) -> None:
        """`pick`'s answer is about to be started; `queue` still holds it."""


class FirstComeFirstServed:
    """The order of arrival."""

    def pick(self, queue: WaitingQueue, executors: Sequence[Executor]) -> Waiting:
        """The first entry."""
        return queue.first

    def placed(self, entry: Waiting, queue: WaitingQueue) -> None:
        """Nothing to note: nobody is overtaken."""


class LongestPrefixMatch:
    """The longest prefix in an executor's cache, arrival where equal; nobody is overtaken without end."""

    def __init__(self, *, window: int = LPM_WINDOW, max_bypass: int = LPM_MAX_BYPASS) -> None:
        self._window = window
        self._max_bypass = max_bypass

    def pick(self, queue: WaitingQueue, executors: Sequence[Executor]) -> Waiting:
        """The best of the window's entries of the first one's rank, or the first one once it waited long enough."""
        first = queue.first
        best, best_tokens = first, -1
        if first.bypassed >= self._max_bypass:
            return first
        for entry in queue.window(self._window):
            if entry.rank != first.rank:
                break
            num_tokens = max(entry.cached_tokens(e) for e in executors)
            if num_tokens > best_tokens:
                best, best_tokens = entry, num_tokens
        return best

    def placed(self, entry: Waiting, queue: WaitingQueue) -> None:
        """Count the overtaking."""
        if queue.first is not entry:
            queue.first.bypassed += 1


def make_policy(policy: Policy) -> AdmissionPolicy:
    """The policy that a setting names."""
    return LongestPrefixMatch() if policy is Policy.LPM else FirstComeFirstServed()
