"""The executor's messages: protobuf to domain types and back."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from bough.common.codec import (
    decode_resume,
    decode_sampling,
    encode_failure,
    encode_identity,
    encode_started,
    encode_tokens,
)
from bough.common.errors import InvalidRequestError, code_number
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, ResumePoint
from bough.executor.bases import Base, Bases
from bough.executor.orders import Admission, Capacity, Gauges, Orders, Refusal, StepReport
from bough.rpc.v1 import executor_pb2 as pb

_SEED_MASK = (1 << 64) - 1
_WIRE_HASH_BYTES = 8


def decode_orders(message: pb.RunRequest, bases: Bases) -> Orders:
    """Orders from the wire, siblings spelled out; a request with a value that is not known becomes a refusal.

    Args:
        message: From the wire.
        bases: Those that may be named; brought up to date.
    """
    orders = Orders(cancels=list(message.cancels))
    for fresh in message.bases:
        bases.add(fresh.id, parent=fresh.parent, tokens=fresh.tokens, namespace=fresh.cache_namespace)
    for admit in message.admits:
        base = bases.find(admit.base, admit.cache_namespace)
        if base is None and admit.base:
            orders.without_base += admit.requests
            continue
        try:
            orders.admissions.extend(_decode_admit(admit, base))
        except ValueError as error:
            orders.refusals.extend(_refuse(admit, f"the request cannot be understood: {error}"))
    orders.released_bases = bases.release(message.released_bases)
    if message.HasField("limits"):
        orders.token_budget = message.limits.token_budget
    if message.HasField("queued"):
        orders.queued = message.queued
    if message.HasField("retract_order"):
        orders.retract_order = list(message.retract_order.requests)
    return orders


def _decode_admit(admit: pb.Admit, base: Base | None) -> list[Admission]:
    sampling = decode_sampling(admit.sampling)
    prompt, produced = list(admit.prompt), list(admit.produced)
    return [
        Admission(
            request=request,
            prompt=prompt,
            produced=produced,
            sampling=replace(sampling, seed=(sampling.seed + index) & _SEED_MASK) if index else sampling,
            cache_namespace=admit.cache_namespace,
            order=admit.order,
            traceparent=admit.traceparent,
            base=base,
        )
        for index, request in enumerate(admit.requests)
    ]


def _refuse(admit: pb.Admit, reason: str) -> Iterable[Refusal]:
    code = code_number(InvalidRequestError(reason))
    for request in admit.requests:
        yield Refusal(failure=RequestFailure(request, code, reason), position=len(admit.produced))


def decode_resumes(attach: pb.ExecutorAttach) -> list[ResumePoint]:
    """Where the scheduler's records end."""
    return [decode_resume(resume) for resume in attach.resumes]


def encode_capacity(capacity: Capacity) -> pb.Capacity:
    """Capacity to the wire."""
    return pb.Capacity(
        num_pages=capacity.num_pages,
        page_size=capacity.page_size,
        max_rows=capacity.max_rows,
        token_budget=capacity.token_budget,
    )


def encode_attached(epoch: int, identity: ModelIdentity, capacity: Capacity, running: list[int]) -> pb.RunResponse:
    """The first answer of a stream."""
    return pb.RunResponse(
        attached=pb.ExecutorAttached(
            executor_epoch=epoch,
            identity=encode_identity(identity),
            capacity=encode_capacity(capacity),
            running=running,
            takes_bases=True,
        )
    )


def encode_report(report: StepReport) -> pb.RunResponse:
    """A report to the wire."""
    return pb.RunResponse(
        step=report.step,
        tokens=encode_tokens(report.tokens) if report.tokens.requests else None,
        started=encode_started(report.started),
        retracted=report.retracted,
        errors=[encode_failure(failure) for failure in report.failures],
        cache_events=_encode_cache_events(report),
        gauges=None if report.gauges is None else _encode_gauges(report.gauges),
        without_base=report.without_base,
    )


def _encode_cache_events(report: StepReport) -> pb.CacheEvents | None:
    if not (report.cache_changes or report.cache_cleared):
        return None
    events = pb.CacheEvents(cleared=report.cache_cleared)
    for page, stored in report.cache_changes.items():
        (events.stored if stored else events.removed).append(int.from_bytes(page[:_WIRE_HASH_BYTES], "little"))
    return events


def _encode_gauges(gauges: Gauges) -> pb.ExecutorGauges:
    return pb.ExecutorGauges(
        running=gauges.running,
        waiting=gauges.waiting,
        pages_used=gauges.pages_used,
        pages_cached=gauges.pages_cached,
        pages_free=gauges.pages_free,
        step_us=gauges.step_us,
        prefill_tokens=gauges.prefill_tokens,
    )
