"""A scheduler that holds one answer for every request and sends it as the test says, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from bough.common.codec import encode_tokens
from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import NotFoundError
from bough.common.rpc.server import RpcServer
from bough.common.sampling import FinishReason
from bough.rpc.v1 import common_pb2, scheduler_pb2_grpc
from bough.rpc.v1 import scheduler_pb2 as pb

Context = grpc.aio.ServicerContext[Any, Any]


class FakeScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Remembers submissions over broken streams, as the real one does.

    Attributes:
        ids: What every request is answered with.
        allowed: How many of these tokens have been produced so far.
        seen: All messages received.
    """

    def __init__(self, ids: list[int], identity: common_pb2.ModelIdentity | None = None) -> None:
        self.ids = ids
        self.allowed = 0
        self.identity = identity
        self.seen: list[pb.SchedulerRequest] = []
        self.submits: dict[int, common_pb2.Submit] = {}
        self.streams = 0
        self._changed = asyncio.Condition()
        self._sent: dict[int, int] = {}
        self._broken = False

    async def produce(self, num_tokens: int) -> None:
        """Let all requests have this many tokens."""
        async with self._changed:
            self.allowed = num_tokens
            self._changed.notify_all()

    async def break_stream(self) -> None:
        """Cut the stream; the detokenizer opens a new one."""
        async with self._changed:
            self._broken = True
            self._changed.notify_all()

    async def until(self, condition: Any) -> None:
        """Wait until something was received."""
        async with self._changed:
            await self._changed.wait_for(condition)

    async def Describe(self, request: pb.SchedulerDescribeRequest, context: Context) -> pb.SchedulerDescribeResponse:
        return pb.SchedulerDescribeResponse(epoch=1)

    async def ChangeProgram(self, request: pb.ChangeProgramRequest, context: Context) -> pb.ChangeProgramResponse:
        raise NotFoundError("this scheduler knows no programs")

    async def Stream(
        self, request_iterator: AsyncIterator[pb.SchedulerRequest], context: Context
    ) -> AsyncIterator[pb.SchedulerResponse]:
        self.streams += 1
        self._sent, self._broken = {}, False
        resumed: list[int] = []
        reader = asyncio.create_task(self._read(request_iterator, resumed))
        seq = 1
        yield pb.SchedulerResponse(attached=common_pb2.Attached(epoch=1, identity=self.identity), seq=seq)
        try:
            while True:
                async with self._changed:
                    await self._changed.wait_for(lambda: self._broken or resumed or self._pending())
                    if self._broken:
                        return
                    seq += 1
                    message = self._message(resumed)
                    message.seq, message.ack = seq, 0
                yield message
        finally:
            reader.cancel()

    async def _read(self, messages: AsyncIterator[pb.SchedulerRequest], resumed: list[int]) -> None:
        async for message in messages:
            async with self._changed:
                self.seen.append(message)
                for submit in message.submits:
                    for request in submit.requests:
                        self.submits[request] = submit
                        self._sent[request] = 0
                for resume in message.resumes:
                    resumed.append(resume.request)
                    self._sent[resume.request] = resume.position
                for request in [*message.cancels, *message.stopped, *message.released]:
                    self._sent.pop(request, None)
                self._changed.notify_all()

    def _pending(self) -> list[int]:
        return [request for request, sent in self._sent.items() if sent < self.allowed]

    def _message(self, resumed: list[int]) -> pb.SchedulerResponse:
        message = pb.SchedulerResponse()
        for request in resumed:
            submit = self.submits.get(request)
            if submit is None:
                message.errors.add(request=request, code=5, message="unknown request")
                self._sent.pop(request, None)
            else:
                message.resumed.add(request=request, text=submit.text, prompt_tail=submit.prompt[-16:])
        resumed.clear()
        batch = TokenBatch()
        for request in self._pending():
            sent = self._sent[request]
            finish = FinishReason.LENGTH if self.allowed >= len(self.ids) else FinishReason.NONE
            batch.append_row(TokenRow(request, sent, self.ids[sent : self.allowed], finish))
            self._sent[request] = self.allowed
        if len(batch):
            message.tokens.CopyFrom(encode_tokens(batch))
        return message


async def serve_scheduler(address: str, scheduler: FakeScheduler, *, ready: bool = True) -> RpcServer:
    """Serve it."""
    server = RpcServer(address)
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(scheduler, server.server)
    await server.start()
    await server.set_ready(ready)
    return server
