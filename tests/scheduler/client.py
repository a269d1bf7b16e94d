"""A detokenizer's side of the scheduler's stream, for tests over sockets."""

from __future__ import annotations

import asyncio
import contextlib

from bough.common.codec import decode_failure, decode_started, decode_text_options, decode_tokens
from bough.common.columns import TokenBatch
from bough.common.rpc.channel import open_channel
from bough.common.rpc.streams import ReconnectingStream
from bough.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from bough.scheduler.consumers import ConsumerUpdate, ResumedRequest
from tests.scheduler.simulated import Inbox


class Client:
    """Submits, and resumes what has not ended whenever its stream breaks."""

    def __init__(self, address: str) -> None:
        self.inbox = Inbox()
        self.attached: list[common_pb2.Attached] = []
        self.live: set[int] = set()
        self._channel = open_channel(address)
        self.stub = scheduler_pb2_grpc.SchedulerServiceStub(self._channel)
        self._pending = scheduler_pb2.SchedulerRequest()
        self._news = asyncio.Event()
        self._call: asyncio.Task[None] | None = None
        self._stream = self._new_stream()

    def _new_stream(self) -> ReconnectingStream[scheduler_pb2.SchedulerRequest, scheduler_pb2.SchedulerResponse]:
        return ReconnectingStream(
            open_call=lambda: self.stub.Stream(),
            hello=self._hello,
            collect=self._collect,
            on_message=self._on_message,
            on_change=lambda _: self._news.set(),
            peer="scheduler",
        )

    def open(self) -> Client:
        """Begin."""
        self._stream = self._new_stream()
        self._call = asyncio.create_task(self._stream.run())
        return self

    async def break_stream(self) -> None:
        """Lose the stream; `open` comes back."""
        if self._call is not None:
            self._call.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._call

    async def close(self) -> None:
        """End."""
        await self.break_stream()
        await self._channel.close()

    def submit(self, *calls: common_pb2.Submit) -> None:
        """Send client calls."""
        for call in calls:
            self.live.update(call.requests)
            self._pending.submits.append(call)
        self._stream.wake()

    def cancel(self, request: int) -> None:
        """Lose interest."""
        self.live.discard(request)
        self._pending.cancels.append(request)
        self._stream.wake()

    def release(self, *requests: int) -> None:
        """Have everything."""
        self._pending.released.extend(requests)
        self._stream.wake()

    async def ended(self, *requests: int) -> None:
        """Wait until requests have ended or were refused."""
        wanted = set(requests)
        while wanted - self.inbox.finish.keys() - {failure.request for failure in self.inbox.failures}:
            await self._next()

    async def received(self, request: int, num_tokens: int) -> None:
        """Wait for tokens."""
        while len(self.inbox.tokens.get(request, ())) < num_tokens:
            await self._next()

    async def _next(self) -> None:
        self._news.clear()
        await asyncio.wait_for(self._news.wait(), timeout=20)

    def _hello(self) -> scheduler_pb2.SchedulerRequest:
        message = scheduler_pb2.SchedulerRequest(attach=common_pb2.Attach(peer="test", epoch=1))
        for request in self.live - self.inbox.finish.keys():
            if request in self.inbox.tokens:
                position = len(self.inbox.tokens[request])
                message.resumes.append(common_pb2.Resume(request=request, position=position))
        return message

    def _collect(self) -> scheduler_pb2.SchedulerRequest | None:
        if not self._pending.ListFields():
            return None
        message, self._pending = self._pending, scheduler_pb2.SchedulerRequest()
        return message

    def _on_message(self, message: scheduler_pb2.SchedulerResponse) -> None:
        if message.HasField("attached"):
            self.attached.append(message.attached)
        self.inbox.take(
            ConsumerUpdate(
                tokens=decode_tokens(message.tokens) if message.HasField("tokens") else TokenBatch(),
                started=decode_started(message.started),
                failures=[decode_failure(error) for error in message.errors],
                resumed=[
                    ResumedRequest(
                        request=r.request,
                        text=decode_text_options(r.text),
                        prompt_tail=tuple(r.prompt_tail),
                        prompt_tokens=r.prompt_tokens,
                        name=r.name,
                    )
                    for r in message.resumed
                ],
            )
        )
        self._news.set()
