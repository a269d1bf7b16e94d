"""What the scheduler must hear of each request, kept until it has heard it: makes a broken stream harmless.

Lives on the event loop's thread, so that a new stream is answered without asking the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bough.common.columns import TokenRow
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest
from bough.common.sampling import FinishReason, TokenLogprobs
from bough.executor.orders import Admission, StepReport


@dataclass(slots=True)
class _Log:
    """The output of one request since it was admitted here."""

    first_position: int
    wants_logprobs: bool
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    started: StartedRequest | None = None
    finish: FinishReason = FinishReason.NONE
    failure: RequestFailure | None = None


class RunLog:
    """Reports of the engine on their way to the scheduler."""

    def __init__(self) -> None:
        self._logs: dict[int, _Log] = {}
        self._pending = StepReport()
        self._has_news = False
        self._attached = False
        self._ended_in: deque[tuple[int, list[int]]] = deque()
        """(message number, requests whose end it carried), oldest first."""
        self._ended: list[int] = []

    @property
    def requests(self) -> list[int]:
        """Requests that run, or whose end the scheduler has not confirmed."""
        return list(self._logs)

    def admit(self, admission: Admission) -> bool:
        """A request comes in; False when it is here already."""
        if admission.request in self._logs:
            return False
        wants_logprobs = admission.sampling.top_logprobs is not None
        self._logs[admission.request] = _Log(len(admission.produced), wants_logprobs)
        return True

    def cancel(self, requests: Iterable[int]) -> None:
        """Nobody wants to hear of these any more."""
        for request in requests:
            self._logs.pop(request, None)

    def attach(self, resumes: Iterable[ResumePoint], cached_pages: list[bytes]) -> list[int]:
        """A new stream opens. What it misses becomes pending.

        Args:
            resumes: Where the scheduler's record of each request ends.
            cached_pages: Hashes of all pages in the cache.

        Returns:
            Requests that the scheduler did not name; they must be cancelled.
        """
        self._pending = StepReport(pages_stored=cached_pages)
        self._ended_in.clear()
        self._ended = []
        self._attached = self._has_news = True
        named = {point.request: point.position for point in resumes}
        unnamed = [request for request in self._logs if request not in named]
        self.cancel(unnamed)
        for request, position in named.items():
            if (log := self._logs.get(request)) is not None:
                self._repeat(request, log, max(position, log.first_position))
        return unnamed

    def detach(self) -> None:
        """The stream is gone; only the logs are kept until the next one."""
        self._attached = False
        self._pending = StepReport()

    def on_report(self, report: StepReport) -> None:
        """The engine did a step."""
        self._record(report)
        if not self._attached:
            return
        pending = self._pending
        if all(request in self._logs for request in report.tokens.requests):
            pending.tokens.extend(report.tokens)
        else:  # cancelled in the meantime
            for row in report.tokens.rows():
                if row.request in self._logs:
                    pending.tokens.append_row(row)
        pending.step = report.step or pending.step
        pending.started += report.started
        pending.retracted += report.retracted
        pending.failures += report.failures
        pending.pages_stored += report.pages_stored
        if report.pages_removed:
            self._remove_pages(report.pages_removed)
        pending.gauges = report.gauges or pending.gauges
        self._has_news = True

    def collect(self, message_number: int) -> StepReport | None:
        """What the next message says, which has this number; None when there is no news."""
        if not self._has_news or not self._attached:
            return None
        report, self._pending, self._has_news = self._pending, StepReport(), False
        if self._ended:
            self._ended_in.append((message_number, self._ended))
            self._ended = []
        return report

    def acknowledge(self, message_number: int) -> None:
        """The scheduler has all messages up to this one: ends that they carried are forgotten."""
        while self._ended_in and self._ended_in[0][0] <= message_number:
            for request in self._ended_in.popleft()[1]:
                log = self._logs.get(request)
                if log is not None and log.finish is not FinishReason.NONE:
                    del self._logs[request]

    def backlog(self) -> int:
        """Tokens that wait to be sent."""
        return len(self._pending.tokens.tokens)

    def _record(self, report: StepReport) -> None:
        for started in report.started:
            if (log := self._logs.get(started.request)) is not None:
                log.started = started
        for failure in report.failures:
            if (log := self._logs.get(failure.request)) is not None:
                log.failure = failure
        for row in report.tokens.rows():
            if (log := self._logs.get(row.request)) is None:
                continue
            log.tokens += row.tokens
            if row.logprobs is not None:
                log.logprobs += row.logprobs
            if row.finish is not FinishReason.NONE:
                log.finish = row.finish
                self._ended.append(row.request)

    def _repeat(self, request: int, log: _Log, position: int) -> None:
        start = position - log.first_position
        logprobs = log.logprobs[start:] if log.wants_logprobs else None
        self._pending.tokens.append_row(TokenRow(request, position, log.tokens[start:], log.finish, logprobs))
        if log.started is not None:
            self._pending.started.append(log.started)
        if log.failure is not None:
            self._pending.failures.append(log.failure)
        if log.finish is not FinishReason.NONE:
            self._ended.append(request)

    def _remove_pages(self, removed: list[bytes]) -> None:
        # One message applies stores before removals; a page stored again after a removal must not be lost by that.
        pending = self._pending
        pending.pages_removed += removed
        gone = set(removed)
        pending.pages_stored = [page for page in pending.pages_stored if page not in gone]
