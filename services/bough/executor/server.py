"""The executor's gRPC side: one scheduler's stream of orders in and reports out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc.aio

from bough.common.codec import decode_identity, encode_identity
from bough.common.errors import BoughError, InvalidRequestError, UnavailableError, code_number
from bough.common.model import ModelIdentity, check_same_model
from bough.common.requests import RequestFailure
from bough.common.rpc.streams import StreamWriter, pump
from bough.common.sampling import FinishReason, Grammar
from bough.executor.codec import decode_orders, decode_resumes, encode_attached, encode_capacity, encode_report
from bough.executor.engine import Engine
from bough.executor.loop import EngineLoop, Mail
from bough.executor.orders import Admission, Capacity, Orders, StepReport
from bough.executor.run_log import RunLog
from bough.executor.running import Matcher
from bough.rpc.v1 import executor_pb2 as pb
from bough.rpc.v1 import executor_pb2_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
MatcherSource = Callable[[Grammar], Awaitable[Matcher]]

MAX_BACKLOG_TOKENS = 1_000_000
"""Tokens gathered for a scheduler that does not read before its stream is cut; it comes back and resumes."""


class ExecutorServicer(executor_pb2_grpc.ExecutorServiceServicer):
    """Serves the scheduler that attached last.

    Args:
        identity: The model.
        epoch: Start of this process.
        loop: The engine's thread.
        matcher_source: Gives the matcher of a grammar, fetching the grammar first.
    """

    def __init__(
        self, identity: ModelIdentity, *, epoch: int, loop: Callable[[], EngineLoop], matcher_source: MatcherSource
    ) -> None:
        self._identity = identity
        self._epoch = epoch
        self._loop = loop
        self._matcher_source = matcher_source
        self._log = RunLog()
        self._capacity: Capacity | None = None
        self._writer: StreamWriter[pb.RunResponse] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._message_number = 0
        self._fetching: dict[int, asyncio.Task[None]] = {}
        self.is_draining = False

    @property
    def has_work(self) -> bool:
        """A request runs, or its end is not confirmed."""
        return bool(self._log.requests)

    def engine_ready(self, engine: Engine) -> None:
        """The model is loaded: streams are taken from now on."""
        self._capacity = engine.capacity

    def on_report(self, report: StepReport) -> None:
        """The engine did something; called on the event loop."""
        self._log.on_report(report)
        if self._writer is not None:
            self._writer.wake()

    async def Describe(self, request: pb.ExecutorDescribeRequest, context: Context) -> pb.ExecutorDescribeResponse:
        """What is served; without capacity until the model is loaded."""
        capacity = None if self._capacity is None else encode_capacity(self._capacity)
        return pb.ExecutorDescribeResponse(
            identity=encode_identity(self._identity), epoch=self._epoch, capacity=capacity
        )

    # A coroutine instead of a generator, so that writes know flow control.
    async def Run(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.RunRequest], context: Context
    ) -> None:
        """Serve a scheduler until its stream ends or another one takes over."""
        if self._capacity is None:
            raise UnavailableError("the model is not loaded yet")
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        if not first.HasField("attach"):
            raise InvalidRequestError("attach is missing: the first message of a stream must carry it", field="attach")
        if first.attach.HasField("identity"):
            check_same_model(self._identity, decode_identity(first.attach.identity), peer="the scheduler")
        await self._take_over()
        stream = asyncio.create_task(self._serve(first, request_iterator, context, self._capacity))
        self._stream = stream
        try:
            await asyncio.wait({stream})
            if stream.cancelled():
                raise UnavailableError("another scheduler took this executor over")
            stream.result()
        finally:
            stream.cancel()

    async def _take_over(self) -> None:
        if self._stream is not None:
            self._stream.cancel()
            await asyncio.wait({self._stream})

    async def _serve(
        self, first: pb.RunRequest, messages: AsyncIterator[pb.RunRequest], context: Context, capacity: Capacity
    ) -> None:
        writer = StreamWriter(self._collect, context.write, backlog=self._log.backlog, max_backlog=MAX_BACKLOG_TOKENS)
        writer.accept(first.seq)
        cached_pages = await self._loop().ask(Engine.snapshot)
        # What another process ran is nothing this one could go on with.
        same_process = first.attach.executor_epoch == self._epoch
        unnamed = self._log.attach(decode_resumes(first.attach) if same_process else [], cached_pages)
        self._cancel(unnamed)
        self._message_number = 1
        try:
            await writer.send(encode_attached(self._epoch, self._identity, capacity, self._log.requests))
            self._writer = writer
            writer.wake()
            self._apply(first)
            await pump(messages, writer, self._on_message)
        finally:
            self._writer = None
            self._log.detach()

    def _collect(self) -> pb.RunResponse | None:
        report = self._log.collect(self._message_number + 1)
        if report is None:
            return None
        self._message_number += 1
        return encode_report(report)

    def _on_message(self, message: pb.RunRequest) -> None:
        self._log.acknowledge(message.ack)
        self._apply(message)

    def _apply(self, message: pb.RunRequest) -> None:
        if message.forks or message.pins:
            raise InvalidRequestError("forks and pins are not supported by this version", field="forks")
        if not (message.admits or message.cancels or message.HasField("retract_order")):
            return
        try:
            orders = decode_orders(message)
        except ValueError as error:
            raise InvalidRequestError(f"orders are malformed: {error}") from error
        fresh = [admission for admission in orders.admissions if self._log.admit(admission)]
        orders.admissions = [admission for admission in fresh if admission.sampling.grammar is None]
        for admission in fresh:
            if admission.sampling.grammar is not None:
                self._fetch(admission, admission.sampling.grammar)
        self._cancel(orders.cancels, orders)

    def _cancel(self, requests: list[int], orders: Orders | None = None) -> None:
        self._log.cancel(requests)
        for request in requests:
            fetch = self._fetching.pop(request, None)
            if fetch is not None:
                fetch.cancel()
        orders = orders or Orders(cancels=requests)
        if orders.admissions or orders.cancels or orders.retract_order:
            self._loop().send(Mail(orders=orders, matchers={}))

    def _fetch(self, admission: Admission, grammar: Grammar) -> None:
        task = asyncio.create_task(self._admit_with_grammar(admission, grammar))
        self._fetching[admission.request] = task

    async def _admit_with_grammar(self, admission: Admission, grammar: Grammar) -> None:
        request = admission.request
        try:
            matcher = await self._matcher_source(grammar)
        except BoughError as error:
            self.on_report(_failed(admission, code_number(error), str(error)))
        else:
            self._loop().send(Mail(orders=Orders(admissions=[admission]), matchers={request: matcher}))
        finally:
            if self._fetching.get(request) is asyncio.current_task():
                del self._fetching[request]


def _failed(admission: Admission, code: int, message: str) -> StepReport:
    report = StepReport(failures=[RequestFailure(admission.request, code, message)])
    report.tokens.requests.append(admission.request)
    report.tokens.positions.append(len(admission.produced))
    report.tokens.counts.append(0)
    report.tokens.finish.append(int(FinishReason.ERROR))
    return report
