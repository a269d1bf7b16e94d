"""Long-lived streams: gathered messages, numbers, cut-offs and coming back."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bough.common.errors import InvalidRequestError, MismatchError, OverloadedError, UnavailableError
from bough.common.rpc.channel import open_channel
from bough.common.rpc.streams import ReconnectingStream, StreamWriter
from bough.rpc.v1 import common_pb2, scheduler_pb2_grpc
from tests.common.echo import EchoServicer, Request, Response, serving


class Caller:
    """The calling side: sends ids, collects the ids that come back."""

    def __init__(self, address: str) -> None:
        self.channel = open_channel(address)
        self.epochs: list[int] = []
        self.answers: list[int] = []
        self.changes: list[bool] = []
        self.hellos = 0
        self.pending: list[int] = []
        self.fault: Exception | None = None
        self._news = asyncio.Event()
        stub = scheduler_pb2_grpc.SchedulerServiceStub(self.channel)
        self.stream: ReconnectingStream[Request, Response] = ReconnectingStream(
            open_call=lambda: stub.Stream(),
            hello=self._hello,
            collect=self._collect,
            on_message=self._on_message,
            on_change=self._on_change,
            peer="echo",
        )

    def say(self, *ids: int) -> None:
        self.pending += ids
        self.stream.wake()

    async def until(self, *, answers: int = 0, changes: int = 0, hellos: int = 0) -> None:
        while len(self.answers) < answers or len(self.changes) < changes or self.hellos < hellos:
            self._news.clear()
            await asyncio.wait_for(self._news.wait(), timeout=20)

    def _hello(self) -> Request:
        self.hellos += 1
        self._news.set()
        return Request(attach=common_pb2.Attach(peer="test"))

    def _collect(self) -> Request | None:
        if not self.pending:
            return None
        ids, self.pending = self.pending, []
        return Request(cancels=ids)

    def _on_message(self, message: Response) -> None:
        if message.HasField("attached"):
            self.epochs.append(message.attached.epoch)
        self.answers += [error.request for error in message.errors]
        self._news.set()
        if self.fault is not None and message.errors:
            fault, self.fault = self.fault, None
            raise fault

    def _on_change(self, attached: bool) -> None:
        self.changes.append(attached)
        self._news.set()


@contextlib.asynccontextmanager
async def calling(address: str) -> AsyncIterator[Caller]:
    caller = Caller(address)
    running = asyncio.create_task(caller.stream.run())
    try:
        yield caller
    finally:
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await caller.channel.close()


async def test_what_was_said_before_the_stream_opened_is_sent_once_it_is(tmp_path: Path) -> None:
    async with serving(EchoServicer(), tmp_path) as (_, address), calling(address) as caller:
        caller.say(1, 2)
        await caller.until(answers=2)
        assert caller.answers == [1, 2]
        assert caller.changes == [True]


async def test_messages_are_numbered_and_acknowledged(tmp_path: Path) -> None:
    servicer = EchoServicer()
    async with serving(servicer, tmp_path) as (_, address), calling(address) as caller:
        for number in (1, 2, 3):
            caller.say(number)
            await caller.until(answers=number)
    assert [message.seq for message in servicer.received] == [1, 2, 3, 4]
    assert [message.ack for message in servicer.received] == [0, 1, 2, 3]


async def test_a_stream_that_the_peer_broke_comes_back_with_a_new_hello(tmp_path: Path) -> None:
    servicer = EchoServicer()
    async with serving(servicer, tmp_path) as (_, address), calling(address) as caller:
        await caller.until(changes=1)
        servicer.streams[0].cancel()
        caller.say(1)
        await caller.until(changes=3)
        caller.say(2)
        await caller.until(answers=1)
        assert caller.changes == [True, False, True]
        assert caller.hellos == 2
        assert caller.epochs == [1, 2]
        assert caller.answers[-1] == 2


async def test_a_peer_that_restarts_is_found_again(tmp_path: Path) -> None:
    async with serving(EchoServicer(), tmp_path) as (first, address), calling(address) as caller:
        await caller.until(changes=1)
        await first.stop(0)
        await caller.until(changes=2)
        assert isinstance(caller.stream.last_error, UnavailableError)
        async with serving(EchoServicer(), tmp_path):
            await caller.until(changes=3)
            caller.say(4)
            await caller.until(answers=1)
    assert caller.answers == [4]


async def test_a_refusal_is_kept_as_the_reason_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    servicer = EchoServicer()
    servicer.refusal = MismatchError("revision differs: a here, b there")
    async with serving(servicer, tmp_path) as (_, address), calling(address) as caller:
        await caller.until(hellos=3)
        assert not caller.stream.attached
        assert isinstance(caller.stream.last_error, MismatchError)
        assert caplog.text.count("echo refuses the stream: revision differs: a here, b there") == 1
        servicer.refusal = None
        await caller.until(changes=1)
        assert caller.stream.last_error is None


@pytest.mark.parametrize("fault", [InvalidRequestError("a gap"), KeyError("a bug of the owner")])
async def test_an_error_of_the_owner_breaks_the_stream_but_does_not_end_it_for_good(
    tmp_path: Path, fault: Exception
) -> None:
    async with serving(EchoServicer(), tmp_path) as (_, address), calling(address) as caller:
        caller.fault = fault
        caller.say(1)
        await caller.until(changes=3)
        caller.say(2)
        await caller.until(answers=2)
        assert caller.answers == [1, 2]


async def test_a_slow_consumer_is_cut_off_and_told_so() -> None:
    gathered: list[int] = []
    blocked = asyncio.Event()

    async def write(message: Response) -> None:
        blocked.set()
        await asyncio.Event().wait()

    def collect() -> Response | None:
        return Response() if gathered else None

    writer = StreamWriter(collect, write, backlog=lambda: len(gathered), max_backlog=2)
    running = asyncio.create_task(writer.run())
    gathered.append(1)
    writer.wake()
    await blocked.wait()
    gathered += [2, 3]
    writer.wake()
    with pytest.raises(OverloadedError, match="too slow"):
        await running


async def test_a_writer_that_is_cancelled_for_another_reason_is_just_cancelled() -> None:
    async def write(message: Response) -> None:
        raise AssertionError("nothing was gathered")

    writer: StreamWriter[Response] = StreamWriter(lambda: None, write)
    running = asyncio.create_task(writer.run())
    writer.wake()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_consumer_that_was_cut_off_comes_back_and_goes_on(tmp_path: Path) -> None:
    servicer = EchoServicer(max_backlog=3)
    async with serving(servicer, tmp_path) as (_, address), calling(address) as caller:
        await caller.until(changes=1)
        servicer.say(1, 2, 3, 4, 5)
        await caller.until(changes=2)
        assert isinstance(caller.stream.last_error, OverloadedError)
        servicer.pending = []
        await caller.until(changes=3)
        servicer.say(6)
        await caller.until(answers=1)
        assert caller.answers == [6]


def test_numbers_are_accepted_once_and_in_order() -> None:
    async def write(message: Response) -> None: ...

    writer: StreamWriter[Response] = StreamWriter(lambda: None, write)
    assert writer.accept(1)
    assert not writer.accept(1)
    assert writer.accept(2)
    with pytest.raises(UnavailableError, match="message 3 of the stream is missing, got 5"):
        writer.accept(5)


async def test_a_fast_producer_and_a_slow_transport_make_few_large_messages() -> None:
    pending: list[int] = []
    written: list[list[int]] = []
    gate = asyncio.Semaphore(0)

    def collect() -> Response | None:
        if not pending:
            return None
        message = Response(errors=[common_pb2.RequestError(request=i) for i in pending])
        pending.clear()
        return message

    async def write(message: Response) -> None:
        await gate.acquire()
        written.append([error.request for error in message.errors])

    writer = StreamWriter(collect, write)
    running = asyncio.create_task(writer.run())
    for number in range(1, 6):
        pending.append(number)
        writer.wake()
        await asyncio.sleep(0)
    for _ in range(2):
        gate.release()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    assert written == [[1], [2, 3, 4, 5]]
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running
