"""The executor's stream over a real socket, with a pretended engine behind it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from torch import Tensor

from bough.common.codec import encode_identity
from bough.common.columns import TokenRow
from bough.common.errors import UnavailableError
from bough.common.model import ModelIdentity
from bough.common.requests import StartedRequest
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import RpcServer
from bough.common.sampling import FinishReason, Grammar, SamplingParams
from bough.executor.orders import Capacity, Gauges, Orders, StepReport
from bough.executor.running import Matcher
from bough.executor.server import ExecutorServicer
from bough.rpc.v1 import common_pb2, executor_pb2_grpc
from bough.rpc.v1 import executor_pb2 as pb

EPOCH = 77
IDENTITY = ModelIdentity(model="tiny", revision="0123", vocab_hash=b"v" * 32, vocab_size=512, max_context=1024)
CAPACITY = Capacity(num_pages=100, page_size=16, max_rows=8, token_budget=64)
SAMPLING = common_pb2.SamplingParams(top_p=1, max_tokens=9, seed=2**64 - 1)
GRAMMAR = common_pb2.Grammar(key=b"k" * 32, kind=common_pb2.GRAMMAR_KIND_REGEX, text="a+")


class AnyMatcher:
    """Allows everything."""

    def fill(self, bitmask: Tensor, line: int) -> None: ...

    def accept(self, token: int) -> bool:
        return True

    batched = None

    def suspect(self) -> None:
        raise AssertionError("is asked by itself")

    def forced(self, most: int, least_chance: float) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None: ...

    @property
    def is_done(self) -> bool:
        return False


class Fixture:
    """A served executor whose engine is the test."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.orders: asyncio.Queue[Orders] = asyncio.Queue()
        self.grammars: asyncio.Queue[tuple[Grammar, asyncio.Future[Matcher]]] = asyncio.Queue()
        self.applied = 0
        self.servicer = ExecutorServicer(
            IDENTITY, epoch=EPOCH, send=self.orders.put_nowait, matcher_source=self._matcher
        )
        self.server = RpcServer(address)
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(self.servicer, self.server.server)

    def _matcher(self, params: SamplingParams) -> Awaitable[Matcher]:
        answer: asyncio.Future[Matcher] = asyncio.get_running_loop().create_future()
        assert params.grammar is not None
        self.grammars.put_nowait((params.grammar, answer))
        return answer

    async def next_orders(self) -> Orders:
        """What the engine gets next, applied."""
        orders = await asyncio.wait_for(self.orders.get(), 10)
        self.applied = orders.number
        return orders

    def report(self, *rows: TokenRow, **fields: Any) -> None:
        """The engine did a step."""
        report = StepReport(step=1, applied=self.applied, **fields)
        for row in rows:
            report.tokens.append_row(row)
        self.servicer.on_report(report)


class Scheduler:
    """One stream of a scheduler."""

    def __init__(self, stub: executor_pb2_grpc.ExecutorServiceAsyncStub) -> None:
        self.call = stub.Run()
        self._sent = 0
        self.received = 0

    async def send(self, **fields: Any) -> None:
        """One message, numbered."""
        self._sent += 1
        await self.call.write(pb.RunRequest(seq=self._sent, ack=self.received, **fields))

    async def read(self) -> pb.RunResponse:
        """The next message."""
        message = await asyncio.wait_for(self.call.read(), 10)
        assert isinstance(message, pb.RunResponse), f"the stream ended: {await self.call.code()}"
        assert message.seq == self.received + 1
        self.received = message.seq
        return message

    async def attach(self, *resumes: tuple[int, int], epoch: int = EPOCH) -> pb.ExecutorAttached:
        """Open the stream, and read the answer."""
        points = [common_pb2.Resume(request=request, position=position) for request, position in resumes]
        attach = pb.ExecutorAttach(executor_epoch=epoch, identity=encode_identity(IDENTITY), resumes=points)
        await self.send(attach=attach)
        return (await self.read()).attached

    async def status(self) -> tuple[grpc.StatusCode, str]:
        """How the stream ended."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            while await asyncio.wait_for(self.call.read(), 10) is not grpc.aio.EOF:
                pass
        return await self.call.code(), str(await self.call.details())


NewStream = Callable[[], Scheduler]


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[Fixture]:
    fixture = Fixture(f"unix:{tmp_path}/executor.sock")
    await fixture.server.start()
    fixture.servicer.engine_ready(CAPACITY)
    yield fixture
    await fixture.servicer.close()
    await fixture.server.stop(0)


@pytest.fixture
async def stream(executor: Fixture) -> AsyncIterator[NewStream]:
    async with open_channel(executor.address) as channel:
        stub: executor_pb2_grpc.ExecutorServiceAsyncStub = executor_pb2_grpc.ExecutorServiceStub(channel)
        yield lambda: Scheduler(stub)


def admit(*requests: int, **fields: Any) -> pb.Admit:
    return pb.Admit(requests=requests, prompt=[5, 6], **{"sampling": SAMPLING, **fields})


def with_grammar() -> common_pb2.SamplingParams:
    sampling = common_pb2.SamplingParams(grammar=GRAMMAR)
    sampling.MergeFrom(SAMPLING)
    return sampling


def rows(message: pb.RunResponse) -> list[tuple[int, int, int]]:
    """(request, position, finish) of each row."""
    columns = message.tokens
    finish = list(columns.finish) or [0] * len(columns.requests)
    return list(zip(columns.requests, columns.positions, finish, strict=True))


async def test_an_attached_scheduler_learns_who_serves_and_that_the_cache_is_empty(stream: NewStream) -> None:
    scheduler = stream()
    attached = await scheduler.attach(epoch=0)
    assert attached.executor_epoch == EPOCH and attached.identity.revision == "0123" and not attached.running
    capacity = attached.capacity
    assert (capacity.num_pages, capacity.page_size, capacity.max_rows, capacity.token_budget) == (100, 16, 8, 64)
    first = await scheduler.read()
    assert first.cache_events.cleared and not first.cache_events.stored


async def test_a_scheduler_that_comes_early_waits_until_the_model_is_loaded(tmp_path: Path) -> None:
    fixture = Fixture(f"unix:{tmp_path}/executor.sock")
    await fixture.server.start()
    async with open_channel(fixture.address) as channel:
        stub: executor_pb2_grpc.ExecutorServiceAsyncStub = executor_pb2_grpc.ExecutorServiceStub(channel)
        described = await stub.Describe(pb.ExecutorDescribeRequest())
        assert described.epoch == EPOCH and not described.HasField("capacity")
        scheduler = Scheduler(stub)
        attaching = asyncio.create_task(scheduler.attach())
        assert not (await stub.Describe(pb.ExecutorDescribeRequest())).HasField("capacity")
        fixture.servicer.engine_ready(CAPACITY)
        assert (await attaching).capacity.num_pages == 100
    await fixture.server.stop(0)


async def test_a_stream_must_begin_with_attach(stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.send(cancels=[1])
    code, details = await scheduler.status()
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "attach" in details


async def test_a_scheduler_of_another_model_is_refused_with_both_values(stream: NewStream) -> None:
    scheduler = stream()
    other = common_pb2.ModelIdentity(revision="4567", vocab_hash=b"v" * 32, vocab_size=512, max_context=1024)
    await scheduler.send(attach=pb.ExecutorAttach(identity=other))
    code, details = await scheduler.status()
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "0123" in details and "4567" in details


async def test_a_missing_message_ends_the_stream(stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    scheduler._sent += 1
    await scheduler.send(cancels=[1])
    assert (await scheduler.status())[0] is grpc.StatusCode.UNAVAILABLE


async def test_orders_reach_the_engine_in_domain_terms(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.send(
        admits=[admit(1, 2, order=4, cache_namespace=b"n"), admit(3, produced=[8])],
        cancels=[9],
        limits=pb.Limits(token_budget=32),
        queued=17,
        retract_order=pb.RetractOrder(requests=[2, 1]),
    )
    orders = await executor.next_orders()
    assert [(a.request, a.sampling.seed, a.order) for a in orders.admissions[:2]] == [(1, 2**64 - 1, 4), (2, 0, 4)]
    first, _, third = orders.admissions
    assert (first.prompt, first.produced, first.cache_namespace) == ([5, 6], [], b"n")
    assert third.produced == [8]
    assert (orders.cancels, orders.token_budget, orders.queued, orders.retract_order) == ([9], 32, 17, [2, 1])
    await scheduler.send(cancels=[1])
    following = await executor.next_orders()
    assert following.number == orders.number + 1
    assert (following.token_budget, following.queued, following.retract_order) == (None, None, None)


async def test_a_step_is_told_in_one_message_and_ends_are_kept_until_acknowledged(
    executor: Fixture, stream: NewStream
) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.read()
    await scheduler.send(admits=[admit(1, 2)])
    await executor.next_orders()
    gauges = Gauges(running=1, waiting=0, pages_used=3, pages_cached=2, pages_free=95, step_us=50, prefill_tokens=11)
    page = bytes(range(16))
    executor.report(
        TokenRow(1, 0, [10]),
        TokenRow(2, 0, [20], FinishReason.STOP),
        started=[StartedRequest(1, 2)],
        cache_changes={page: True, page[::-1]: False},
        gauges=gauges,
    )
    message = await scheduler.read()
    assert message.ack == 2
    assert rows(message) == [(1, 0, 0), (2, 0, 1)] and list(message.tokens.tokens) == [10, 20]
    assert (message.gauges.pages_used, message.gauges.step_us, message.gauges.prefill_tokens) == (3, 50, 11)
    events = message.cache_events
    assert list(events.stored) == [int.from_bytes(page[:8], "little")]
    assert list(events.removed) == [int.from_bytes(page[:-9:-1], "little")]
    assert not events.cleared
    await scheduler.send(cancels=[1])
    await executor.next_orders()
    assert not executor.servicer.has_work


async def test_a_scheduler_whose_stream_broke_gets_what_it_missed(executor: Fixture, stream: NewStream) -> None:
    first = stream()
    await first.attach()
    await first.send(admits=[admit(1, 2, 3)])
    await executor.next_orders()
    executor.report(TokenRow(1, 0, [10]), TokenRow(2, 0, [20]), TokenRow(3, 0, [30], FinishReason.STOP))
    first.call.cancel()
    executor.report(TokenRow(1, 1, [11]), TokenRow(2, 1, [21]), cache_changes={b"p" * 16: True})
    second = stream()
    attached = await second.attach((1, 1), (3, 0))
    assert sorted(attached.running) == [1, 3]
    message = await second.read()
    assert rows(message) == [(1, 1, 0), (3, 0, 1)] and list(message.tokens.tokens) == [11, 30]
    assert message.cache_events.cleared and len(message.cache_events.stored) == 1
    assert (await executor.next_orders()).cancels == [2]
    executor.report(TokenRow(1, 2, [12]), TokenRow(2, 2, [22]))
    assert rows(await second.read()) == [(1, 2, 0)]


async def test_a_scheduler_that_knew_another_process_finds_nothing_running(
    executor: Fixture, stream: NewStream
) -> None:
    first = stream()
    await first.attach()
    await first.send(admits=[admit(1)])
    await executor.next_orders()
    first.call.cancel()
    second = stream()
    attached = await second.attach((1, 0), epoch=EPOCH - 1)
    assert not attached.running
    assert (await executor.next_orders()).cancels == [1]
    await second.send(admits=[admit(1)])
    assert [a.request for a in (await executor.next_orders()).admissions] == [1]


async def test_the_newest_of_several_schedulers_takes_over_and_the_others_get_a_status(
    executor: Fixture, stream: NewStream
) -> None:
    streams = [stream() for _ in range(4)]
    await asyncio.gather(*(other.attach() for other in streams[:3]), return_exceptions=True)
    last = streams[3]
    await last.attach()
    for other in streams[:3]:
        code, details = await other.status()
        assert code is grpc.StatusCode.UNAVAILABLE and "took this executor over" in details
    await last.send(admits=[admit(1)])
    await executor.next_orders()
    executor.report(TokenRow(1, 0, [10]))
    await last.read()
    assert rows(await last.read()) == [(1, 0, 0)]


async def test_a_request_that_is_sent_twice_is_admitted_once(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.send(admits=[admit(1)])
    await scheduler.send(admits=[admit(1), admit(2)])
    assert [a.request for a in (await executor.next_orders()).admissions] == [1]
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]


async def test_an_order_that_cannot_be_read_fails_its_request_alone(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.read()
    unknown = common_pb2.SamplingParams(top_p=1, max_tokens=9, grammar=common_pb2.Grammar(key=b"k"))
    uneven = common_pb2.SamplingParams(top_p=1, max_tokens=9, logit_bias_ids=[1])
    await scheduler.send(admits=[admit(1, sampling=unknown), admit(2), admit(3, sampling=uneven, produced=[7])])
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]
    message = await scheduler.read()
    assert rows(message) == [(1, 0, 5), (3, 1, 5)]
    assert {error.request: error.code for error in message.errors} == {1: 3, 3: 3}


async def test_orders_name_bases_until_they_are_released(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    assert (await scheduler.attach()).takes_bases
    await scheduler.read()
    base = pb.Base(id=7, tokens=[4, 5, 6])
    await scheduler.send(bases=[base], admits=[admit(1, base=7), admit(2)])
    one, two = (await executor.next_orders()).admissions
    assert one.base is not None and (one.base.since(0), one.num_prompt) == ([4, 5, 6], 3 + two.num_prompt)
    assert two.base is None
    bases = [pb.Base(id=8, parent=7, tokens=[9])]
    await scheduler.send(bases=bases, released_bases=[7], admits=[admit(3, base=8), admit(4, base=7)])
    orders = await executor.next_orders()
    assert orders.released_bases == [one.base]
    three, four = orders.admissions
    assert three.base is not None and three.base.since(0) == [4, 5, 6, 9]
    assert four.base is one.base, "a release is of later messages"


async def test_requests_whose_base_is_not_known_are_named_and_not_run(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.read()
    await scheduler.send(bases=[pb.Base(id=7, tokens=[4])], admits=[admit(1, base=7)])
    await executor.next_orders()
    elsewhere = admit(4, base=7)
    elsewhere.cache_namespace = b"other"
    # What is here already is no matter of what its order says now.
    await scheduler.send(released_bases=[7])
    assert (await executor.next_orders()).released_bases
    await scheduler.send(admits=[admit(1, base=7), admit(2, base=7), admit(3), elsewhere])
    assert [a.request for a in (await executor.next_orders()).admissions] == [3]
    message = await scheduler.read()
    assert (list(message.without_base), rows(message), list(message.errors)) == ([2, 4], [], [])
    await scheduler.send(admits=[admit(2)])
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]


async def test_a_new_stream_knows_no_bases(executor: Fixture, stream: NewStream) -> None:
    first = stream()
    await first.attach()
    await first.send(bases=[pb.Base(id=7, tokens=[4])], admits=[admit(1, base=7)])
    [one] = (await executor.next_orders()).admissions
    second = stream()
    await second.attach((1, 0))
    assert (await executor.next_orders()).released_bases == [one.base]
    await second.read()
    await second.send(admits=[admit(2, base=7)])
    assert list((await second.read()).without_base) == [2]


async def test_a_request_with_a_grammar_waits_for_it_and_others_do_not(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.send(admits=[admit(1, sampling=with_grammar()), admit(2)])
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]
    grammar, answer = await executor.grammars.get()
    assert (grammar.key, grammar.text) == (b"k" * 32, "a+")
    matcher = AnyMatcher()
    answer.set_result(matcher)
    [admission] = (await executor.next_orders()).admissions
    assert admission.request == 1 and admission.matcher is matcher


def given(**fields: Any) -> common_pb2.SamplingParams:
    return common_pb2.SamplingParams(
        **{"top_p": 1, "max_tokens": 2, "ignore_eos": True, "forced_ids": [7, 8], **fields}
    )


async def test_requests_whose_output_is_given_reach_the_engine_together_and_at_once(
    executor: Fixture, stream: NewStream
) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.send(admits=[admit(1, 2, sampling=given()), admit(3), admit(4, sampling=given(forced_ids=[9, 7]))])
    admissions = (await executor.next_orders()).admissions
    assert [a.request for a in admissions] == [1, 2, 3, 4]
    matchers = {a.request: a.matcher for a in admissions if a.matcher is not None}
    assert {request: list(matcher.forced(9, 1.0)) for request, matcher in matchers.items()} == {
        1: [7, 8],
        2: [7, 8],
        4: [9, 7],
    }
    assert matchers[1] is not matchers[2] and executor.grammars.empty()


async def test_a_given_output_that_cannot_be_had_fails_its_request_alone(executor: Fixture, stream: NewStream) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.read()
    both = given()
    both.MergeFrom(common_pb2.SamplingParams(grammar=GRAMMAR))
    await scheduler.send(admits=[admit(1, sampling=both), admit(2), admit(3, sampling=given(forced_ids=[7, 512]))])
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]
    errors = {error.request: error for error in (await scheduler.read()).errors}
    assert {request: error.code for request, error in errors.items()} == {1: 3, 3: 3}
    assert errors[1].message.startswith("forced_ids: come with a grammar") and "hold 512" in errors[3].message


async def test_a_request_that_waits_for_its_grammar_outlives_a_broken_stream(
    executor: Fixture, stream: NewStream
) -> None:
    first = stream()
    await first.attach()
    await first.send(admits=[admit(1, 2, sampling=with_grammar())])
    (_, kept), (_, dropped) = await executor.grammars.get(), await executor.grammars.get()
    first.call.cancel()
    second = stream()
    assert list((await second.attach((1, 0))).running) == [1]
    await second.read()
    assert (await executor.next_orders()).cancels == [2]
    assert dropped.cancelled() and not kept.done()
    kept.set_result(AnyMatcher())
    [admission] = (await executor.next_orders()).admissions
    assert admission.request == 1
    executor.report(TokenRow(1, 0, [10]))
    assert rows(await second.read()) == [(1, 0, 0)]


async def test_a_request_cancelled_while_its_grammar_is_fetched_never_runs(
    executor: Fixture, stream: NewStream
) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.send(admits=[admit(1, sampling=with_grammar())])
    _, answer = await executor.grammars.get()
    await scheduler.send(cancels=[1])
    assert (await executor.next_orders()).cancels == [1]
    await scheduler.send(admits=[admit(2)])
    assert [a.request for a in (await executor.next_orders()).admissions] == [2]
    assert answer.cancelled() and executor.servicer.has_work
    await scheduler.send(cancels=[2])
    await executor.next_orders()
    assert not executor.servicer.has_work


@pytest.mark.parametrize(("error", "code"), [(UnavailableError("down"), 14), (KeyError("planted"), 13)])
async def test_a_grammar_that_cannot_be_had_fails_its_request(
    executor: Fixture, stream: NewStream, error: Exception, code: int
) -> None:
    scheduler = stream()
    await scheduler.attach()
    await scheduler.read()
    await scheduler.send(admits=[admit(1, sampling=with_grammar(), produced=[4, 5])])
    _, answer = await executor.grammars.get()
    answer.set_exception(error)
    message = await scheduler.read()
    assert rows(message) == [(1, 2, 5)]
    assert [(e.request, e.code) for e in message.errors] == [(1, code)]
    assert "grammar" in message.errors[0].message
