"""An executor process for tests: a real gRPC server whose tokens are a function of prompt, seed and position."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio

from bough.common.codec import decode_sampling, encode_identity, encode_tokens
from bough.common.errors import UnavailableError
from bough.common.model import ModelIdentity
from bough.common.requests import ResumePoint
from bough.common.rpc.server import RpcServer
from bough.common.rpc.streams import StreamWriter, pump
from bough.rpc.v1 import common_pb2, executor_pb2, executor_pb2_grpc
from bough.scheduler.bases import NewBase
from bough.scheduler.executors import AdmitOrder, Orders, StepReport
from tests.scheduler.simulated import IDENTITY, SimulatedExecutor

Context = grpc.aio.ServicerContext[Any, Any]


def encode_report(report: StepReport) -> executor_pb2.RunResponse:
    """A simulated step to the wire."""
    response = executor_pb2.RunResponse(
        step=report.step, tokens=encode_tokens(report.tokens), without_base=report.without_base
    )
    for started in report.started:
        response.started.requests.append(started.request)
        response.started.cached_tokens.append(started.cached_tokens)
    if report.gauges is not None:
        response.gauges.running = report.gauges.running
        response.gauges.pages_free = report.gauges.pages_free
        response.gauges.pages_used = report.gauges.pages_used
    return response


def decode_orders(message: executor_pb2.RunRequest) -> Orders:
    """Orders from the wire."""
    admits = [
        AdmitOrder(
            requests=tuple(admit.requests),
            base=admit.base,
            prompt=tuple(admit.prompt),
            produced=tuple(admit.produced),
            sampling=decode_sampling(admit.sampling),
            cache_namespace=admit.cache_namespace,
            order=admit.order,
            traceparent=admit.traceparent,
        )
        for admit in message.admits
    ]
    bases = [
        NewBase(id=base.id, parent=base.parent, tokens=tuple(base.tokens), cache_namespace=base.cache_namespace)
        for base in message.bases
    ]
    return Orders(
        bases=bases,
        released_bases=list(message.released_bases),
        admits=admits,
        cancels=list(message.cancels),
    )


class FakeExecutor(executor_pb2_grpc.ExecutorServiceServicer):
    """Steps whenever it has rows and `permits` are left.

    Args:
        address: Where it serves.
        epoch: Start of the pretended process.
        permits: Steps it may make before it waits for `allow`; None is without end.
        identity: The model it claims to hold.
    """

    def __init__(
        self, address: str, *, epoch: int = 1, permits: int | None = None, identity: ModelIdentity = IDENTITY
    ) -> None:
        self.process = SimulatedExecutor(epoch=epoch)
        self.identity = identity
        self.attaches: list[executor_pb2.ExecutorAttach] = []
        self.acked = 0
        self._permits = permits
        self._address = address
        self._server: RpcServer | None = None
        self._changed = asyncio.Event()
        self._progress = asyncio.Event()
        self._pending: list[executor_pb2.RunResponse] = []
        self._calls: set[asyncio.Task[Any]] = set()

    async def start(self) -> FakeExecutor:
        """Serve."""
        self._server = RpcServer(self._address)
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(self, self._server.server)
        await self._server.start()
        return self

    async def kill(self) -> None:
        """End without a word."""
        if self._server is not None:
            await self._server.stop(None)  # type: ignore[arg-type]
            self._server = None

    def break_stream(self) -> None:
        """Lose the stream, but not what runs."""
        for call in self._calls:
            call.cancel()

    def allow(self, permits: int | None) -> None:
        """Let it make so many steps."""
        self._permits = permits
        self._changed.set()

    async def until(self, steps: int = 0, *, admitted: int = 0, streams: int = 0) -> None:
        """Wait until it has made so many steps, got so many orders and seen so many streams."""
        while self.process.steps < steps or len(self.process.admitted) < admitted or len(self.attaches) < streams:
            self._progress.clear()
            await self._progress.wait()

    async def Describe(
        self, request: executor_pb2.ExecutorDescribeRequest, context: Context
    ) -> executor_pb2.ExecutorDescribeResponse:
        """Which model it claims to hold."""
        return executor_pb2.ExecutorDescribeResponse(identity=encode_identity(self.identity), epoch=self.process.epoch)

    # As in the service: a coroutine, so that writes know flow control.
    async def Run(  # type: ignore[override]
        self, request_iterator: AsyncIterator[executor_pb2.RunRequest], context: Context
    ) -> None:
        """Serve a scheduler."""
        writer: StreamWriter[executor_pb2.RunResponse] = StreamWriter(self._collect, context.write)
        first = await anext(aiter(request_iterator))
        writer.accept(first.seq)
        resumes = [ResumePoint(r.request, r.position) for r in first.attach.resumes]
        attachment, report = self.process.attach(resumes if first.attach.executor_epoch == self.process.epoch else [])
        capacity = attachment.capacity
        attached = executor_pb2.ExecutorAttached(
            executor_epoch=attachment.epoch,
            identity=encode_identity(self.identity),
            capacity=executor_pb2.Capacity(
                num_pages=capacity.num_pages,
                page_size=capacity.page_size,
                max_rows=capacity.max_rows,
                token_budget=capacity.token_budget,
            ),
            running=sorted(attachment.running),
            takes_bases=attachment.takes_bases,
        )
        self._pending = []
        await writer.send(executor_pb2.RunResponse(attached=attached))
        self._pending.append(encode_report(report))
        stepping = asyncio.create_task(self._step(writer))

        def on_message(message: executor_pb2.RunRequest) -> None:
            self.acked = message.ack
            self.process.apply(decode_orders(message))
            self._changed.set()
            self._progress.set()

        pumping = asyncio.create_task(pump(request_iterator, writer, on_message))
        self._calls.add(pumping)
        self.attaches.append(first.attach)
        self._progress.set()
        try:
            await asyncio.wait({pumping})
            if pumping.cancelled():
                raise UnavailableError("the stream was broken")
            pumping.result()
        finally:
            self._calls.discard(pumping)
            stepping.cancel()
            pumping.cancel()

    async def _step(self, writer: StreamWriter[executor_pb2.RunResponse]) -> None:
        writer.wake()
        while True:
            if self.process.rows and self._permits != 0:
                if self._permits is not None:
                    self._permits -= 1
                self._pending.append(encode_report(self.process.step()))
                self._progress.set()
                writer.wake()
                await asyncio.sleep(0)
            else:
                self._changed.clear()
                await self._changed.wait()

    def _collect(self) -> executor_pb2.RunResponse | None:
        return self._pending.pop(0) if self._pending else None


def submit_message(request: int, *, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 5) -> common_pb2.Submit:
    """A client call on the wire."""
    return common_pb2.Submit(
        requests=[request],
        prompt=prompt,
        sampling=common_pb2.SamplingParams(max_tokens=max_tokens, seed=7, temperature=1, top_p=1),
    )
