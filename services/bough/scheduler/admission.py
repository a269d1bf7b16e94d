"""When a waiting request goes to an executor: late, but early enough that the executor never waits for it.

A request that sits in the queue can still be reordered, cancelled for free or sent elsewhere, so it is bound only when
it can start soon. Between an executor's report and the arrival of our order it takes about a step, so a little more
than fits is given ahead: work for a few steps of prefill, and a few requests more than there are rows.
"""

from __future__ import annotations

from bough.scheduler.executors import Capacity, Executor
from bough.scheduler.queue import Waiting
from bough.scheduler.requests import RequestRecord

LOOKAHEAD_STEPS = 4
"""Steps' worth of prefill given ahead: when a step is reported the next one runs and one more may be composed."""

SURPLUS_ROWS_DIVISOR = 16
"""One request beyond the rows for so many rows (at least 2): they start in the step after a row ends."""

MAX_EXPECTED_TOKENS = 4096
"""Nobody reserves pages for more output than this, however large max_tokens is."""

_INITIAL_OUTPUT_RATIO = 0.4
_LEARNING_RATE = 0.02


class Admission:
    """Estimates whether a request can start soon on an executor.

    `output_ratio` is the share of max_tokens that requests are expected to produce. It follows those that ended, and
    jumps up when an executor had to retract one: too little reserved costs computing again, too much only waiting.
    """

    def __init__(self) -> None:
        self.output_ratio = _INITIAL_OUTPUT_RATIO

    def note_end(self, record: RequestRecord) -> None:
        """Learn from a request that ended by itself."""
        share = min(1.0, len(record.tokens) / record.submission.sampling.max_tokens)
        self.output_ratio += _LEARNING_RATE * (share - self.output_ratio)

    def note_retraction(self) -> None:
        """An executor ran out of pages."""
        self.output_ratio = min(1.0, 1.25 * self.output_ratio + 0.02)

    def has_room(self, executor: Executor) -> bool:
        """Whether an executor could take any further request. Cheap: asked after each step."""
        capacity = executor.capacity
        if not executor.attached or capacity is None:
            return False
        if not executor.assigned:
            return True
        surplus = max(2, capacity.max_rows // SURPLUS_ROWS_DIVISOR)
        return (
            len(executor.assigned) < capacity.max_rows + surplus
            and executor.backlog.num_waiting_tokens < LOOKAHEAD_STEPS * capacity.token_budget
        )

    def fits(self, executor: Executor, entry: Waiting) -> bool:
        """Whether an executor with room has the pages for an entry.

        An executor without any request takes whatever comes: it knows best whether a prompt fits at all, and says so.
        """
        capacity = executor.capacity
        assert capacity is not None
        if not executor.assigned:
            return True
        wanted = self._pages_of(entry, executor, capacity)
        free = self._pages_free(executor, capacity)
        return wanted <= free and wanted + self._growth_pages(executor, capacity) <= free

    def _pages_of(self, entry: Waiting, executor: Executor, capacity: Capacity) -> int:
        first = entry.records[0]
        siblings = len(entry.records)
        shared = capacity.pages_for(max(1, first.num_tokens - entry.cached_tokens(executor)))
        # Siblings share the prompt's pages; each has its own tail page and output.
        output = capacity.pages_for(self._expected_tokens(first))
        return shared + siblings * output + siblings - 1

    def _pages_free(self, executor: Executor, capacity: Capacity) -> int:
        gauges = executor.gauges
        free = capacity.num_pages if gauges is None else gauges.pages_free + gauges.pages_cached
        # A request gets all pages of its prompt when its first chunk is computed; then they are in the gauges.
        return free - capacity.pages_for(executor.backlog.num_waiting_tokens) - len(executor.backlog)

    def _growth_pages(self, executor: Executor, capacity: Capacity) -> int:
        num_tokens = sum(self._expected_tokens(record) for record in executor.assigned.values())
        return capacity.pages_for(num_tokens)

    def _expected_tokens(self, record: RequestRecord) -> int:
        left = record.submission.sampling.max_tokens - len(record.tokens)
        return int(min(left, MAX_EXPECTED_TOKENS) * self.output_ratio)
