"""The scheduler's own messages on the wire."""

from __future__ import annotations

import pytest

from bough.common.requests import RequestFailure, ResumePoint, StartedRequest
from bough.common.sampling import SamplingParams, TextOptions
from bough.rpc.v1 import common_pb2, executor_pb2, scheduler_pb2
from bough.scheduler.codec import (
    decode_attachment,
    decode_program_change,
    decode_report,
    encode_executor_attach,
    encode_orders,
    encode_state_answers,
    encode_update,
)
from bough.scheduler.consumers import ConsumerUpdate, ResumedRequest
from bough.scheduler.executors import AdmitOrder, CacheChange, Capacity, Gauges, Orders
from bough.scheduler.program_orders import (
    Cut,
    Extend,
    Fork,
    Join,
    Look,
    ProgramChange,
    Release,
    StateAnswer,
    UnknownOrder,
)
from tests.scheduler.simulated import IDENTITY


def test_a_report_of_a_step_is_read_whole() -> None:
    report = decode_report(
        executor_pb2.RunResponse(
            step=4,
            tokens=common_pb2.TokenColumns(requests=[1], positions=[2], tokens=[3]),
            started=common_pb2.StartedColumns(requests=[1], cached_tokens=[16]),
            retracted=[8],
            errors=[common_pb2.RequestError(request=9, code=13, message="broken")],
            cache_events=executor_pb2.CacheEvents(stored=[5], removed=[6], cleared=True),
            gauges=executor_pb2.ExecutorGauges(
                running=1, waiting=2, pages_used=3, pages_cached=4, pages_free=5, step_us=6, prefill_tokens=7
            ),
        )
    )
    assert report.step == 4
    assert (report.tokens.requests, report.tokens.positions, report.tokens.tokens) == ([1], [2], [3])
    assert report.started == [StartedRequest(1, 16)]
    assert report.retracted == [8]
    assert report.failures == [RequestFailure(9, 13, "broken")]
    assert report.cache == CacheChange(stored=(5,), removed=(6,), cleared=True)
    assert report.gauges == Gauges(
        running=1, waiting=2, pages_used=3, pages_cached=4, pages_free=5, step_us=6, prefill_tokens=7
    )


def test_a_report_that_says_nothing_changes_nothing() -> None:
    report = decode_report(executor_pb2.RunResponse())
    assert not len(report.tokens)
    assert (report.cache, report.gauges, report.started, report.retracted) == (None, None, [], [])


def test_a_report_whose_columns_do_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        decode_report(executor_pb2.RunResponse(tokens=common_pb2.TokenColumns(requests=[1, 2], tokens=[3])))


def test_orders_carry_everything_an_executor_needs() -> None:
    admit = AdmitOrder(
        requests=(1, 2),
        prompt=(5, 6),
        produced=(7,),
        sampling=SamplingParams(seed=9),
        cache_namespace=b"tenant",
        order=3,
        traceparent="00-a-b-01",
    )
    message = encode_orders(Orders(admits=[admit], cancels=[4], queued=5))
    [sent] = message.admits
    assert (list(sent.requests), list(sent.prompt), list(sent.produced)) == ([1, 2], [5, 6], [7])
    assert (sent.sampling.seed, sent.cache_namespace, sent.order, sent.traceparent) == (9, b"tenant", 3, "00-a-b-01")
    assert list(message.cancels) == [4] and message.queued == 5
    assert not encode_orders(Orders()).HasField("queued")


def test_an_attach_names_where_each_record_ends() -> None:
    message = encode_executor_attach(
        scheduler_epoch=1, executor_epoch=2, identity=IDENTITY, resumes=[ResumePoint(8, 40)]
    )
    assert (message.attach.scheduler_epoch, message.attach.executor_epoch) == (1, 2)
    assert message.attach.identity.max_context == IDENTITY.max_context
    assert [(r.request, r.position) for r in message.attach.resumes] == [(8, 40)]
    unknown = encode_executor_attach(scheduler_epoch=1, executor_epoch=0, identity=None, resumes=[])
    assert not unknown.attach.HasField("identity")


def test_an_attachment_is_read_whole() -> None:
    capacity = executor_pb2.Capacity(num_pages=1, page_size=2, max_rows=3, token_budget=4)
    attachment = decode_attachment(executor_pb2.ExecutorAttached(executor_epoch=5, capacity=capacity, running=[6, 7]))
    assert attachment.capacity == Capacity(num_pages=1, page_size=2, max_rows=3, token_budget=4)
    assert (attachment.epoch, attachment.running) == (5, frozenset({6, 7}))


def test_an_update_carries_what_a_text_state_is_rebuilt_from() -> None:
    resumed = ResumedRequest(
        request=1, text=TextOptions(stop=("x",)), prompt_tail=(5, 6), prompt_tokens=70, name="chatcmpl-1"
    )
    message = encode_update(ConsumerUpdate(resumed=[resumed], failures=[RequestFailure(2, 8, "full", 1500)]))
    [sent] = message.resumed
    assert (sent.request, list(sent.text.stop), list(sent.prompt_tail)) == (1, ["x"], [5, 6])
    assert (sent.prompt_tokens, sent.name) == (70, "chatcmpl-1")
    assert message.errors[0].retry_after_ms == 1500
    assert not message.HasField("tokens")
    assert not message.HasField("started")


def test_orders_for_a_program_are_read_whole() -> None:
    pb = scheduler_pb2
    message = pb.ChangeProgramRequest(
        program=b"p" * 16,
        lease_s=60,
        cache_namespace=b"salt",
        orders=[
            pb.StateOrder(extend=pb.ExtendOrder(state=0, tokens=[5, 6])),
            pb.StateOrder(extend=pb.ExtendOrder(state=0, tokens=[7], at_length=0)),
            pb.StateOrder(fork=pb.ForkOrder(state=0, children=[1, 2**64 - 1])),
            pb.StateOrder(join=pb.JoinOrder(state=0, children=[1])),
            pb.StateOrder(cut=pb.CutOrder(state=0, length=1)),
            pb.StateOrder(release=pb.ReleaseOrder(states=[0, 2])),
            pb.StateOrder(look=pb.LookOrder(state=3)),
            pb.StateOrder(),
        ],
        close=True,
    )
    assert decode_program_change(message) == ProgramChange(
        program=b"p" * 16,
        lease_s=60,
        cache_namespace=b"salt",
        orders=(
            Extend(0, (5, 6)),
            Extend(0, (7,), 0),
            Fork(0, (1, 2**64 - 1)),
            Join(0, (1,)),
            Cut(0, 1),
            Release((0, 2)),
            Look(3),
            UnknownOrder(),
        ),
        close=True,
    )
    assert decode_program_change(pb.ChangeProgramRequest(program=b"p")) == ProgramChange(program=b"p")


def test_answers_to_orders_are_written_whole() -> None:
    message = encode_state_answers([StateAnswer(length=3, tail=(1, 2)), StateAnswer(code=5, message="gone")])
    assert [(a.length, list(a.tail), a.code, a.message) for a in message.answers] == [
        (3, [1, 2], 0, ""),
        (0, [], 5, "gone"),
    ]
