"""What executors report goes into the records, and from there on its way to the consumers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import UnavailableError
from bough.common.requests import RequestFailure
from bough.common.sampling import FinishReason
from bough.scheduler import failures
from bough.scheduler.admission import Admission
from bough.scheduler.executors import Executor, StepReport
from bough.scheduler.observer import Observer
from bough.scheduler.requests import RequestRecord


class EndRequest(Protocol):
    """Ends a request; see `Scheduler`."""

    def __call__(
        self,
        record: RequestRecord,
        finish: FinishReason,
        *,
        failure: RequestFailure | None = None,
        by_executor: bool = False,
    ) -> None:
        """The executor knows of the end already where it is `by_executor`."""


class Recorder:
    """Writes steps down.

    Args:
        end: Called for each request that a report ends.
        admission: Told of ends and retractions, from which it learns.
        observer: Told of first tokens and retractions.
        now_s: A clock that never goes back.
    """

    def __init__(
        self, *, end: EndRequest, admission: Admission, observer: Observer, now_s: Callable[[], float]
    ) -> None:
        self._end = end
        self._admission = admission
        self._observer = observer
        self._now_s = now_s

    def record(self, executor: Executor, report: StepReport) -> None:
        """Record what an executor produced. Raises UnavailableError when tokens are missing."""
        for request in report.without_base:
            record = executor.assigned.get(request)
            if record is not None:
                executor.order_whole(record)
        self._note_turns(executor, report)
        self._record(executor, report.tokens)
        for failure in report.failures:
            record = executor.assigned.get(failure.request)
            if record is not None:
                self._end(record, FinishReason.ERROR, failure=failure, by_executor=True)

    def _note_turns(self, executor: Executor, report: StepReport) -> None:
        for failure in report.failures:
            record = executor.assigned.get(failure.request)
            if record is not None:
                record.failure = failure
        for request in report.retracted:
            record = executor.assigned.get(request)
            if record is not None:
                self._admission.note_retraction()
                self._observer.retracted(record)
        for started in report.started:
            record = executor.assigned.get(started.request)
            # A request that outlived an executor starts again on the next one; its consumer is told of the first only.
            if record is not None and record.cached_tokens is None:
                record.cached_tokens = started.cached_tokens
                if record.sink is not None:
                    record.sink.pending.started.append(started)

    def _record(self, executor: Executor, batch: TokenBatch) -> None:
        assigned, tokens = executor.assigned, batch.tokens
        start = 0
        for request, position, length, finish in zip(
            batch.requests, batch.positions, batch.counts, batch.finish, strict=True
        ):
            record = assigned.get(request)
            if record is None:  # cancelled meanwhile, or another executor's by now
                start += length
                continue
            known = record.tokens
            # The short way, for nearly every row: it decides how many rows a step can have.
            if record.steady and length == 1 and position == len(known) and not finish:
                token = tokens[start]
                known.append(token)
                sink = record.sink
                if sink is not None:
                    sink.pending.tokens.append(request, position, token)
            else:
                self._record_row(record, batch, start, TokenRow(request, position, tokens[start : start + length]))
                if record.ended or not finish:
                    pass
                elif finish == FinishReason.CANCELLED:
                    # We cancel only what we took off an executor before, so this answers an earlier stay of the request
                    # there. Should the executor have dropped it by itself, it gets it again.
                    executor.repeat(record)
                else:
                    self._finish(record, FinishReason(finish))
            start += length

    def _record_row(self, record: RequestRecord, batch: TokenBatch, start: int, row: TokenRow) -> None:
        known = len(record.tokens)
        if row.position > known:
            raise UnavailableError(
                f"request {record.request}: tokens {known} to {row.position - 1} are missing from the executor's stream"
            )
        skip = known - row.position
        tokens = row.tokens[skip:]
        if not tokens:
            return
        fresh = TokenRow(record.request, known, tokens)
        if record.logprobs is not None:
            indices = range(start + skip, start + len(row.tokens))
            if any(index not in batch.logprobs for index in indices):
                failure = failures.internal(record.request, "the executor left log probabilities out")
                self._end(record, FinishReason.ERROR, failure=failure)
                return
            fresh.logprobs = [batch.logprobs[index] for index in indices]
            record.logprobs += fresh.logprobs
        record.tokens += tokens
        if record.sink is not None:
            record.sink.pending.tokens.append_row(fresh)
        self._note_progress(record)

    def _note_progress(self, record: RequestRecord) -> None:
        record.fruitless_deaths = 0
        record.steady = record.logprobs is None
        if record.executor is not None:
            record.executor.backlog.begin(record)
        if record.first_token_s is None:
            record.first_token_s = self._now_s()
            self._observer.started(record)

    def _finish(self, record: RequestRecord, finish: FinishReason) -> None:
        failure = record.failure
        if finish is FinishReason.ERROR:
            failure = failure or failures.internal(record.request, "the executor failed and did not say why")
        else:
            self._admission.note_end(record)
        self._end(record, finish, failure=failure, by_executor=True)
