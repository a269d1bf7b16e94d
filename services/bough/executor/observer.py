"""Metrics and spans of the executor; the engine tells it what happens and knows nothing of telemetry."""

from __future__ import annotations

import time

from opentelemetry.metrics import CallbackOptions, Observation

from bough.common.sampling import FinishReason
from bough.common.telemetry import Telemetry
from bough.executor.orders import Gauges
from bough.executor.running import Running
from bough.executor.step import StepPlan

_STEP_BUCKETS_S = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.0, 2.0)


class Observer:
    """Counts what the engine does and draws a span for each request."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self._telemetry = telemetry
        self.gauges = Gauges(running=0, waiting=0, pages_used=0, pages_cached=0, pages_free=0, step_us=0)
        """As of the last step."""
        self._step = meter.create_histogram(
            "bough_step",
            unit="s",
            description="Duration of a step",
            explicit_bucket_boundaries_advisory=_STEP_BUCKETS_S,
        )
        self._prompt = meter.create_counter("bough_prompt_tokens", description="Prompt tokens of requests that began")
        self._cached = meter.create_counter("bough_cached_tokens", description="Of these, found in the prefix cache")
        # Read when somebody asks: adding to a counter costs more than everything else that is noted of a step.
        self._num_prefill = self._num_decode = self._num_drafts = self._num_accepted = 0
        meter.create_observable_counter(
            "bough_prefill_tokens", [lambda _: [Observation(self._num_prefill)]], description="Prompt tokens computed"
        )
        meter.create_observable_counter(
            "bough_decode_tokens",
            [lambda _: [Observation(self._num_decode)]],
            description="Tokens computed one a row and step",
        )
        meter.create_observable_counter(
            "bough_draft_tokens",
            [lambda _: [Observation(self._num_drafts)]],
            description="Tokens computed on trial, as a grammar forces their text",
        )
        meter.create_observable_counter(
            "bough_accepted_draft_tokens",
            [lambda _: [Observation(self._num_accepted)]],
            description="Of these, produced",
        )
        self._retractions = meter.create_counter("bough_retractions", description="Rows that gave their pages up")
        self._ended = meter.create_counter("bough_requests_ended", description="Requests that ended here, by reason")
        meter.create_observable_gauge("bough_batch_rows", [self._rows], description="Rows running")
        meter.create_observable_gauge("bough_kv_pages", [self._pages], description="Pages of the KV pool, by state")

    def admitted(self, running: Running) -> None:
        """A request came."""
        if self._telemetry.traces:
            running.span = self._telemetry.start_span("execute", running.admission.traceparent)

    def started(self, running: Running) -> None:
        """A request produced its first token here."""
        row = running.sequence
        self._prompt.add(row.num_prompt)
        self._cached.add(min(row.num_cached_tokens, row.num_prompt))
        if running.span is not None:
            running.span.add_event("first token", {"cached_tokens": row.num_cached_tokens})

    def retracted(self, running: Running) -> None:
        """A request gave its pages up."""
        self._retractions.add(1)
        if running.span is not None:
            running.span.add_event("retracted")

    def ended(self, running: Running, reason: FinishReason) -> None:
        """A request ended."""
        self._ended.add(1, {"reason": reason.name.lower()})
        if running.span is not None:
            row = running.sequence
            running.span.set_attributes(
                {
                    "prompt_tokens": row.num_prompt,
                    "cached_tokens": row.num_cached_tokens,
                    "produced_tokens": row.num_generated,
                    "finish_reason": reason.name.lower(),
                }
            )
            running.span.end(time.time_ns())

    def stepped(self, seconds: float) -> None:
        """The results of a step are there, so long after those of the step before or after its launch."""
        self._step.record(seconds)

    def launched(self, plan: StepPlan) -> None:
        """A step was launched."""
        drafts = [len(work.drafts) for work in plan.chunks if work.drafts]
        self._num_drafts += sum(drafts)
        self._num_decode += len(plan.decodes) + len(drafts)
        self._num_prefill += sum(work.num_tokens for work in plan.chunks if not work.drafts)

    def accepted(self, num_drafts: int) -> None:
        """So many drafts were what was sampled in their places."""
        self._num_accepted += num_drafts

    def _rows(self, _: CallbackOptions) -> list[Observation]:
        return [Observation(self.gauges.running)]

    def _pages(self, _: CallbackOptions) -> list[Observation]:
        gauges = self.gauges
        states = {"used": gauges.pages_used, "cached": gauges.pages_cached, "free": gauges.pages_free}
        return [Observation(value, {"state": state}) for state, value in states.items()]
