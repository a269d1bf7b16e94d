"""Domain types to protobuf and back, for the scheduler's two contracts."""

from __future__ import annotations

from bough.common.codec import (
    decode_failure,
    decode_identity,
    decode_started,
    decode_tokens,
    encode_failure,
    encode_identity,
    encode_resume,
    encode_sampling,
    encode_started,
    encode_text_options,
    encode_tokens,
)
from bough.common.columns import TokenBatch
from bough.common.model import ModelIdentity
from bough.common.requests import ResumePoint
from bough.rpc.v1 import executor_pb2, scheduler_pb2
from bough.scheduler.bases import NewBase
from bough.scheduler.consumers import ConsumerUpdate, ResumedRequest
from bough.scheduler.executors import AdmitOrder, Attachment, CacheChange, Capacity, Gauges, Orders, StepReport
from bough.scheduler.program_orders import (
    Cut,
    Extend,
    Fork,
    Join,
    Look,
    ProgramChange,
    Release,
    StateAnswer,
    StateOrder,
    UnknownOrder,
)


def encode_update(update: ConsumerUpdate) -> scheduler_pb2.SchedulerResponse:
    """What a consumer is told."""
    return scheduler_pb2.SchedulerResponse(
        tokens=encode_tokens(update.tokens) if update.tokens.requests else None,
        started=encode_started(update.started),
        errors=[encode_failure(failure) for failure in update.failures],
        resumed=[_encode_resumed(resumed) for resumed in update.resumed],
    )


def _encode_resumed(resumed: ResumedRequest) -> scheduler_pb2.Resumed:
    return scheduler_pb2.Resumed(
        request=resumed.request,
        text=encode_text_options(resumed.text),
        prompt_tail=resumed.prompt_tail,
        prompt_tokens=resumed.prompt_tokens,
        name=resumed.name,
    )


def decode_program_change(message: scheduler_pb2.ChangeProgramRequest) -> ProgramChange:
    """Orders for a program."""
    return ProgramChange(
        program=message.program,
        lease_s=message.lease_s if message.HasField("lease_s") else None,
        cache_namespace=message.cache_namespace,
        orders=tuple(_decode_state_order(order) for order in message.orders),
        close=message.close,
    )


def _decode_state_order(message: scheduler_pb2.StateOrder) -> StateOrder:
    match message.WhichOneof("order"):
        case "extend":
            extend = message.extend
            at_length = extend.at_length if extend.HasField("at_length") else None
            return Extend(extend.state, tuple(extend.tokens), at_length)
        case "fork":
            return Fork(message.fork.state, tuple(message.fork.children))
        case "join":
            return Join(message.join.state, tuple(message.join.children))
        case "cut":
            return Cut(message.cut.state, message.cut.length)
        case "release":
            return Release(tuple(message.release.states))
        case "look":
            return Look(message.look.state)
        case _:
            return UnknownOrder()


def encode_state_answers(answers: list[StateAnswer]) -> scheduler_pb2.ChangeProgramResponse:
    """What became of them."""
    return scheduler_pb2.ChangeProgramResponse(
        answers=[
            scheduler_pb2.StateAnswer(length=answer.length, tail=answer.tail, code=answer.code, message=answer.message)
            for answer in answers
        ]
    )


def encode_executor_attach(
    *, scheduler_epoch: int, executor_epoch: int, identity: ModelIdentity | None, resumes: list[ResumePoint]
) -> executor_pb2.RunRequest:
    """The message that opens a stream to an executor."""
    attach = executor_pb2.ExecutorAttach(
        scheduler_epoch=scheduler_epoch,
        executor_epoch=executor_epoch,
        identity=None if identity is None else encode_identity(identity),
        resumes=[encode_resume(point) for point in resumes],
    )
    return executor_pb2.RunRequest(attach=attach)


def encode_orders(orders: Orders) -> executor_pb2.RunRequest:
    """What an executor is told."""
    return executor_pb2.RunRequest(
        bases=[_encode_base(base) for base in orders.bases],
        released_bases=orders.released_bases,
        admits=[_encode_admit(admit) for admit in orders.admits],
        cancels=orders.cancels,
        queued=orders.queued,
    )


def _encode_base(base: NewBase) -> executor_pb2.Base:
    return executor_pb2.Base(id=base.id, parent=base.parent, tokens=base.tokens, cache_namespace=base.cache_namespace)


def _encode_admit(admit: AdmitOrder) -> executor_pb2.Admit:
    return executor_pb2.Admit(
        requests=admit.requests,
        base=admit.base,
        prompt=admit.prompt,
        produced=admit.produced,
        sampling=encode_sampling(admit.sampling),
        cache_namespace=admit.cache_namespace,
        order=admit.order,
        traceparent=admit.traceparent,
    )


def decode_attachment(message: executor_pb2.ExecutorAttached) -> Attachment:
    """How an executor answered."""
    capacity = message.capacity
    return Attachment(
        epoch=message.executor_epoch,
        identity=decode_identity(message.identity),
        capacity=Capacity(
            num_pages=capacity.num_pages,
            page_size=capacity.page_size,
            max_rows=capacity.max_rows,
            token_budget=capacity.token_budget,
        ),
        running=frozenset(message.running),
        takes_bases=message.takes_bases,
    )


def decode_report(message: executor_pb2.RunResponse) -> StepReport:
    """What an executor says after a step. ValueError where columns do not fit each other."""
    has = message.HasField
    return StepReport(
        step=message.step,
        tokens=decode_tokens(message.tokens) if has("tokens") else TokenBatch(),
        started=decode_started(message.started) if has("started") else [],
        retracted=list(message.retracted),
        failures=[decode_failure(error) for error in message.errors],
        without_base=list(message.without_base),
        cache=_decode_cache_events(message.cache_events) if has("cache_events") else None,
        gauges=_decode_gauges(message.gauges) if has("gauges") else None,
    )


def _decode_cache_events(message: executor_pb2.CacheEvents) -> CacheChange:
    return CacheChange(stored=tuple(message.stored), removed=tuple(message.removed), cleared=message.cleared)


def _decode_gauges(message: executor_pb2.ExecutorGauges) -> Gauges:
    return Gauges(
        running=message.running,
        waiting=message.waiting,
        pages_used=message.pages_used,
        pages_cached=message.pages_cached,
        pages_free=message.pages_free,
        step_us=message.step_us,
        prefill_tokens=message.prefill_tokens,
    )
