"""What the scheduler must hear of each request, kept until it has heard it: makes a broken stream harmless.

Lives on the event loop's thread, so that a new stream is answered without asking the engine.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from bough.common.columns import TokenBatch, TokenRow
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest
from bough.common.sampling import FinishReason, TokenLogprobs
from bough.executor.orders import Admission, Refusal, StepReport


@dataclass(slots=True, eq=False)
class _Log:
    """The output of one stay of a request, from admission to end."""

    request: int
    first_position: int
    since: int
    """Number of the orders that admit it; reports made before speak of an earlier stay."""
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
        self._cached_pages: dict[bytes, None] = {}
        self._pending = StepReport()
        self._has_news = False
        self._attached = False
        self._ended_in: deque[tuple[int, list[_Log]]] = deque()
        """(message number, logs whose end it carried), oldest first."""
        self._ended: list[_Log] = []

    @property
    def requests(self) -> list[int]:
        """Requests that run, or whose end the scheduler has not confirmed."""
        return list(self._logs)

    def admit(self, admission: Admission, number: int) -> bool:
        """A request comes in with the orders of this number, or later ones; False when it is here already."""
        if admission.request in self._logs:
            return False
        self._logs[admission.request] = _Log(
            request=admission.request,
            first_position=len(admission.produced),
            since=number,
            wants_logprobs=admission.sampling.top_logprobs is not None,
        )
        return True

    def refuse(self, refusal: Refusal) -> None:
        """A request fails that cannot even be admitted."""
        failure = refusal.failure
        if failure.request not in self._logs:
            self._logs[failure.request] = _Log(failure.request, refusal.position, since=0, wants_logprobs=False)
            self.fail(failure)

    def turn_away(self, requests: Iterable[int]) -> None:
        """Requests are not taken, since their base is not known; those that are here already run on."""
        fresh = [request for request in requests if request not in self._logs]
        if self._attached and fresh:
            self._pending.without_base += fresh
            self._has_news = True

    def fail(self, failure: RequestFailure) -> None:
        """A request that the engine was never given fails; no effect when it was cancelled."""
        log = self._logs.get(failure.request)
        if log is not None:
            report = StepReport(applied=log.since)
            report.add_failure(failure, log.first_position)
            self.on_report(report)

    def cancel(self, requests: Iterable[int]) -> None:
        """Nobody wants to hear of these any more."""
        for request in requests:
            self._logs.pop(request, None)

    def attach(self, resumes: Iterable[ResumePoint]) -> list[int]:
        """A new stream opens. What it misses, and all that the cache holds, becomes pending.

        Args:
            resumes: Where the scheduler's record of each request ends.

        Returns:
            Requests that the scheduler did not name; they must be cancelled.
        """
        self._pending = StepReport(cache_cleared=True, cache_changes=dict.fromkeys(self._cached_pages, True))
        self._ended_in.clear()
        self._ended = []
        self._attached = self._has_news = True
        named = {point.request: point.position for point in resumes}
        unnamed = [request for request in self._logs if request not in named]
        self.cancel(unnamed)
        for request, position in named.items():
            if (log := self._logs.get(request)) is not None:
                self._repeat(log, max(position, log.first_position))
        return unnamed

    def detach(self) -> None:
        """The stream is gone; only the logs are kept until the next one."""
        self._attached = False
        self._pending = StepReport()
        self._ended_in.clear()
        self._ended = []

    def on_report(self, report: StepReport) -> None:
        """The engine did a step."""
        for page, stored in report.cache_changes.items():
            if stored:
                self._cached_pages[page] = None
            else:
                self._cached_pages.pop(page, None)
        current = self._record(report)
        if not self._attached:
            return
        if current is not report.tokens or report.started or report.failures or report.retracted:
            self._drop_strangers(report)
        if self._has_news:
            self._merge(report, current)
        else:
            report.tokens = current
            self._pending, self._has_news = report, True

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
            for log in self._ended_in.popleft()[1]:
                if self._logs.get(log.request) is log:
                    del self._logs[log.request]

    def backlog(self) -> int:
        """Tokens that wait to be sent."""
        return len(self._pending.tokens.tokens)

    def _log_of(self, request: int, report: StepReport) -> _Log | None:
        log = self._logs.get(request)
        return log if log is not None and log.since <= report.applied else None

    def _record(self, report: StepReport) -> TokenBatch:
        """Add a report to the logs; its rows without those of requests that were cancelled in the meantime."""
        for started in report.started:
            if (log := self._log_of(started.request, report)) is not None:
                log.started = started
        for failure in report.failures:
            if (log := self._log_of(failure.request, report)) is not None:
                log.failure = failure
        batch, logs, applied = report.tokens, self._logs, report.applied
        tokens, logprobs = batch.tokens, batch.logprobs
        start, strangers = 0, 0
        for request, count, finish in zip(batch.requests, batch.counts, batch.finish, strict=True):
            end = start + count
            log = logs.get(request)
            if log is None or log.since > applied:
                strangers += 1
            else:
                log.tokens += tokens[start:end]
                if log.wants_logprobs:
                    log.logprobs += [logprobs[index] for index in range(start, end)]
                if finish:
                    log.finish = FinishReason(finish)
                    self._ended.append(log)
            start = end
        return batch if not strangers else self._known_rows(report)

    def _known_rows(self, report: StepReport) -> TokenBatch:
        known = TokenBatch()
        for row in report.tokens.rows():
            if self._log_of(row.request, report) is not None:
                known.append_row(row)
        return known

    def _drop_strangers(self, report: StepReport) -> None:
        report.started = [s for s in report.started if self._log_of(s.request, report) is not None]
        report.retracted = [request for request in report.retracted if self._log_of(request, report) is not None]
        report.failures = [f for f in report.failures if self._log_of(f.request, report) is not None]

    def _merge(self, report: StepReport, tokens: TokenBatch) -> None:
        pending = self._pending
        pending.step = report.step or pending.step
        pending.tokens.extend(tokens)
        pending.started += report.started
        pending.retracted += report.retracted
        pending.failures += report.failures
        pending.cache_changes.update(report.cache_changes)
        pending.gauges = report.gauges or pending.gauges

    def _repeat(self, log: _Log, position: int) -> None:
        start = position - log.first_position
        logprobs = log.logprobs[start:] if log.wants_logprobs else None
        self._pending.tokens.append_row(TokenRow(log.request, position, log.tokens[start:], log.finish, logprobs))
        if log.started is not None:
            self._pending.started.append(log.started)
        if log.failure is not None:
            self._pending.failures.append(log.failure)
        if log.finish is not FinishReason.NONE:
            self._ended.append(log)
