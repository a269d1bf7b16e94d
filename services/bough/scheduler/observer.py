"""What others may see of the scheduler: metrics, and one span a request."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import StatusCode

from bough.common.requests import RequestFailure
from bough.common.telemetry import LATENCY_BUCKETS_S, Telemetry
from bough.scheduler.executors import Executor, Gauges
from bough.scheduler.programs import Programs
from bough.scheduler.requests import RequestRecord


class Observer:
    """Told of the turns in each request's life; this one ignores them all."""

    def queued(self, record: RequestRecord) -> None:
        """Accepted; waits."""

    def refused(self, failure: RequestFailure) -> None:
        """Not accepted."""

    def admitted(self, record: RequestRecord) -> None:
        """Bound to an executor for the first time."""

    def started(self, record: RequestRecord) -> None:
        """Its first token was recorded."""

    def retracted(self, record: RequestRecord) -> None:
        """Its executor took its pages away for a while."""

    def moved(self, record: RequestRecord) -> None:
        """Waits again, since its executor died."""

    def ended(self, record: RequestRecord, now_s: float) -> None:
        """Has a finish reason."""


class TelemetryObserver(Observer):
    """Metrics and spans through OpenTelemetry.

    Args:
        telemetry: Of this process.
        queue_length: Requests waiting, asked at each scrape.
        executors: All known executors, asked at each scrape.
        programs: All programs, asked at each scrape.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        queue_length: Callable[[], int],
        executors: Callable[[], Iterable[Executor]],
        programs: Callable[[], Programs],
    ) -> None:
        self._telemetry = telemetry
        self._executors = executors
        meter = telemetry.meter
        buckets = list(LATENCY_BUCKETS_S)
        self._queue_time = meter.create_histogram(
            "bough_scheduler_queue_time",
            "s",
            "From submission to admission",
            explicit_bucket_boundaries_advisory=buckets,
        )
        self._first_token = meter.create_histogram(
            "bough_scheduler_time_to_first_token",
            "s",
            "From submission to the first recorded token",
            explicit_bucket_boundaries_advisory=buckets,
        )
        self._duration = meter.create_histogram(
            "bough_scheduler_request_duration",
            "s",
            "From submission to the end",
            explicit_bucket_boundaries_advisory=buckets,
        )
        self._requests = meter.create_counter("bough_scheduler_requests", description="Requests ended, by finish")
        self._refusals = meter.create_counter("bough_scheduler_refusals", description="Requests refused, by code")
        self._retractions = meter.create_counter("bough_scheduler_retractions", description="Retractions by executors")
        self._moves = meter.create_counter("bough_scheduler_moves", description="Requests that outlived an executor")
        self._prompt = meter.create_counter(
            "bough_scheduler_prompt_tokens", description="Prompt tokens of started ones"
        )
        self._cached = meter.create_counter("bough_scheduler_cached_tokens", description="Of these, from the cache")
        self._output = meter.create_counter("bough_scheduler_output_tokens", description="Tokens of ended requests")
        meter.create_observable_gauge(
            "bough_scheduler_queue_length", [lambda _: [Observation(queue_length())]], description="Requests waiting"
        )
        meter.create_observable_gauge(
            "bough_scheduler_running", [self._running], description="Requests given to each executor"
        )
        for name, description, count in _PROGRAM_GAUGES:
            meter.create_observable_gauge(name, [_counted(count, programs)], description=description)
        for name, description, read in _EXECUTOR_GAUGES:
            meter.create_observable_gauge(name, [self._gauge(read)], description=description)

    def queued(self, record: RequestRecord) -> None:
        """Open its span."""
        if self._telemetry.traces:
            record.span = self._telemetry.start_span("schedule", record.submission.traceparent)
            record.span.add_event("queued")

    def refused(self, failure: RequestFailure) -> None:
        """Count it."""
        self._refusals.add(1, {"code": failure.code})

    def admitted(self, record: RequestRecord) -> None:
        """Note how long it waited."""
        if record.admitted_s is not None:
            self._queue_time.record(record.admitted_s - record.submitted_s)
        if record.span is not None:
            record.span.add_event("admitted")

    def started(self, record: RequestRecord) -> None:
        """Note its time to first token and what the cache gave."""
        if record.first_token_s is not None:
            self._first_token.record(record.first_token_s - record.submitted_s)
        self._prompt.add(len(record.submission.prompt))
        self._cached.add(record.cached_tokens or 0)
        if record.span is not None:
            record.span.add_event("first token", {"cached_tokens": record.cached_tokens or 0})

    def retracted(self, record: RequestRecord) -> None:
        """Count it."""
        self._retractions.add(1)
        if record.span is not None:
            record.span.add_event("retracted", {"position": len(record.tokens)})

    def moved(self, record: RequestRecord) -> None:
        """Count it."""
        self._moves.add(1)
        if record.span is not None:
            record.span.add_event("queued", {"position": len(record.tokens)})

    def ended(self, record: RequestRecord, now_s: float) -> None:
        """Count it and close its span."""
        finish = record.finish.name.lower()
        self._requests.add(1, {"finish": finish})
        self._output.add(len(record.tokens))
        self._duration.record(now_s - record.submitted_s)
        if record.span is not None:
            record.span.set_attributes({"finish": finish, "tokens": len(record.tokens)})
            if record.failure is not None:
                record.span.set_status(StatusCode.ERROR, record.failure.message)
            record.span.end()
            record.span = None

    def _running(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(len(e.assigned), {"executor": e.name}) for e in self._executors()]

    def _gauge(self, read: Callable[[Gauges], int]) -> Callable[[CallbackOptions], list[Observation]]:
        def observe(_: CallbackOptions) -> list[Observation]:
            known = [(e.name, e.gauges) for e in self._executors()]
            return [Observation(read(gauges), {"executor": name}) for name, gauges in known if gauges is not None]

        return observe


def _counted(
    count: Callable[[Programs], int], programs: Callable[[], Programs]
) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _: [Observation(count(programs()))]


_PROGRAM_GAUGES: tuple[tuple[str, str, Callable[[Programs], int]], ...] = (
    ("bough_scheduler_programs", "Programs open", len),
    ("bough_scheduler_program_states", "States of all programs", lambda p: p.num_states),
    ("bough_scheduler_program_tokens", "Tokens held for states, shared ones counted once", lambda p: p.num_tokens),
)

_EXECUTOR_GAUGES: tuple[tuple[str, str, Callable[[Gauges], int]], ...] = (
    ("bough_scheduler_executor_rows", "Rows running", lambda g: g.running),
    ("bough_scheduler_executor_waiting", "Requests an executor has not started", lambda g: g.waiting),
    ("bough_scheduler_executor_pages_used", "Pages held by running requests", lambda g: g.pages_used),
    ("bough_scheduler_executor_pages_cached", "Pages that only the prefix cache holds", lambda g: g.pages_cached),
    ("bough_scheduler_executor_pages_free", "Pages free", lambda g: g.pages_free),
    ("bough_scheduler_executor_step_us", "Duration of the last step, microseconds", lambda g: g.step_us),
)
