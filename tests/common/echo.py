"""A service for tests of the plumbing: the scheduler's contract, answered by whatever the test says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc.aio

from bough.common.errors import NotFoundError
from bough.common.rpc.server import RpcServer
from bough.common.rpc.streams import StreamWriter, pump
from bough.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
Request = scheduler_pb2.SchedulerRequest
Response = scheduler_pb2.SchedulerResponse

NAME = scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name


class EchoServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Answers each stream message by the ids it cancels, as errors; `describe` answers the unary call."""

    def __init__(self, *, describe: Callable[[], Awaitable[None]] | None = None, max_backlog: int = 1 << 30) -> None:
        self.streams: list[asyncio.Task[None]] = []
        self.received: list[Request] = []
        self.pending: list[int] = []
        self.writer: StreamWriter[Response] | None = None
        self.refusal: Exception | None = None
        self.answers_seq: int | None = None
        self._describe = describe
        self._max_backlog = max_backlog

    async def Describe(
        self, request: scheduler_pb2.SchedulerDescribeRequest, context: Context
    ) -> scheduler_pb2.SchedulerDescribeResponse:
        if self._describe is not None:
            await self._describe()
        return scheduler_pb2.SchedulerDescribeResponse(epoch=7)

    async def ChangeProgram(
        self, request: scheduler_pb2.ChangeProgramRequest, context: Context
    ) -> scheduler_pb2.ChangeProgramResponse:
        raise NotFoundError("this service knows no programs")

    async def Stream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[Request], context: Context
    ) -> None:
        if self.refusal is not None:
            raise self.refusal
        writer = self.writer = StreamWriter(
            self._collect, context.write, backlog=lambda: len(self.pending), max_backlog=self._max_backlog
        )
        first = await anext(aiter(request_iterator))
        writer.accept(first.seq)
        self.received.append(first)
        await writer.send(Response(attached=common_pb2.Attached(epoch=len(self.streams) + 1)))
        pumping = asyncio.create_task(pump(request_iterator, writer, self._on_message))
        self.streams.append(pumping)
        await asyncio.wait({pumping})
        if not pumping.cancelled():
            pumping.result()

    def _on_message(self, message: Request) -> None:
        self.received.append(message)
        self.say(*message.cancels)

    def say(self, *ids: int) -> None:
        """Gather an answer."""
        self.pending += ids
        if self.writer is not None:
            self.writer.wake()

    def _collect(self) -> Response | None:
        if not self.pending:
            return None
        ids, self.pending = self.pending, []
        return Response(errors=[common_pb2.RequestError(request=i) for i in ids])


@contextlib.asynccontextmanager
async def serving(servicer: EchoServicer, folder: Path) -> AsyncIterator[tuple[RpcServer, str]]:
    """The service on a Unix socket."""
    address = f"unix:{folder / 'echo.sock'}"
    server = RpcServer(address)
    scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(servicer, server.server)
    server.offer(NAME)
    await server.start()
    try:
        yield server, address
    finally:
        await server.stop(0)
