"""The book of all requests that are known: those under way, and ended ones until their consumer has everything."""

from __future__ import annotations

from collections import deque

from bough.scheduler.requests import RequestRecord

MIN_RETRY_AFTER_S = 1.0
MAX_RETRY_AFTER_S = 60.0
_UNKNOWN_RETRY_AFTER_S = 5.0
_REMEMBERED_ENDS = 128
_ENDED_PER_QUEUE = 2
"""Ended requests that nobody releases are kept up to so many times max_queue; the oldest go first."""


class Ledger:
    """Records by id, and how fast requests end.

    Args:
        max_queue: Requests under way at most.
    """

    def __init__(self, max_queue: int) -> None:
        self.max_queue = max_queue
        self.records: dict[int, RequestRecord] = {}
        self._ended: dict[RequestRecord, None] = {}
        self._end_times_s: deque[float] = deque(maxlen=_REMEMBERED_ENDS)

    @property
    def num_under_way(self) -> int:
        """Requests that wait or run."""
        return len(self.records) - len(self._ended)

    def add(self, record: RequestRecord) -> None:
        """A request was accepted."""
        self.records[record.request] = record
        record.consumer.records[record.request] = record

    def note_end(self, record: RequestRecord, now_s: float) -> None:
        """A request has ended; forgets the oldest ended ones beyond the bound."""
        self._ended[record] = None
        self._end_times_s.append(now_s)
        while len(self._ended) > _ENDED_PER_QUEUE * self.max_queue:
            self.forget(next(iter(self._ended)))

    def forget(self, record: RequestRecord) -> None:
        """An ended request is of no interest any more."""
        del self.records[record.request]
        del self._ended[record]
        record.consumer.forget(record)

    def retry_after_s(self, num_requests: int, now_s: float) -> float:
        """When so many requests will probably have ended, from how many did lately."""
        if len(self._end_times_s) < 2:
            return _UNKNOWN_RETRY_AFTER_S
        elapsed_s = max(now_s - self._end_times_s[0], 1e-3)
        wait_s = num_requests * elapsed_s / len(self._end_times_s)
        return min(max(wait_s, MIN_RETRY_AFTER_S), MAX_RETRY_AFTER_S)
