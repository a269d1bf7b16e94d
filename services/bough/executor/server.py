"""The executor's gRPC side: one scheduler's stream of orders in and reports out."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import replace
from typing import Any

import grpc
import grpc.aio

from bough.common.codec import decode_identity, encode_identity
from bough.common.errors import BoughError, InvalidRequestError, UnavailableError, code_number
from bough.common.model import ModelIdentity, check_same_model
from bough.common.requests import RequestFailure
from bough.common.rpc.streams import StreamWriter, pump
from bough.common.sampling import SamplingParams
from bough.executor.bases import Bases
from bough.executor.codec import decode_orders, decode_resumes, encode_attached, encode_capacity, encode_report
from bough.executor.forced_output import forced_output
from bough.executor.orders import Admission, Capacity, Orders, StepReport
from bough.executor.run_log import RunLog
from bough.executor.running import Matcher
from bough.rpc.v1 import executor_pb2 as pb
from bough.rpc.v1 import executor_pb2_grpc

logger = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
MatcherSource = Callable[[SamplingParams], Awaitable[Matcher]]

MAX_BACKLOG_TOKENS = 1_000_000
"""Tokens gathered for a scheduler that does not read before its stream is cut; it comes back and resumes."""


class ExecutorServicer(executor_pb2_grpc.ExecutorServiceServicer):
    """Serves the scheduler that attached last.

    Args:
        identity: The model.
        epoch: Start of this process.
        send: Hands orders to the engine.
        matcher_source: Gives the matcher of a request whose grammar has to be fetched first.
    """

    def __init__(
        self,
        identity: ModelIdentity,
        *,
        epoch: int,
        send: Callable[[Orders], None],
        matcher_source: MatcherSource,
    ) -> None:
        self._identity = identity
        self._epoch = epoch
        self._send_orders = send
        self._matcher_source = matcher_source
        self._log = RunLog()
        self._bases = Bases()
        self._capacity: Capacity | None = None
        self._loaded = asyncio.Event()
        self._writer: StreamWriter[pb.RunResponse] | None = None
        self._stream: asyncio.Task[None] | None = None
        self._message_number = 0
        self._order_number = 0
        self._fetching: dict[int, asyncio.Task[None]] = {}

    @property
    def has_work(self) -> bool:
        """A request runs, or its end is not confirmed."""
        return bool(self._log.requests)

    def engine_ready(self, capacity: Capacity) -> None:
        """The model is loaded: streams are taken from now on."""
        self._capacity = capacity
        self._loaded.set()

    def on_report(self, report: StepReport) -> None:
        """The engine did something; called on the event loop."""
        self._log.on_report(report)
        self._wake()

    async def close(self) -> None:
        """Give up what is being fetched."""
        tasks = list(self._fetching.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

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
        """Serve a scheduler until its stream ends or another one takes over. Streams wait while the model loads."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        if not first.HasField("attach"):
            raise InvalidRequestError("attach is missing: the first message of a stream must carry it", field="attach")
        if first.attach.HasField("identity"):
            check_same_model(self._identity, decode_identity(first.attach.identity), peer="the scheduler")
        await self._loaded.wait()
        await self._take_over()
        stream = self._stream = asyncio.create_task(self._serve(first, request_iterator, context))
        try:
            await asyncio.wait({stream})
            if stream.cancelled():
                # Ending by CancelledError would leave the caller without a status, waiting.
                raise UnavailableError("another scheduler took this executor over")
            stream.result()
        finally:
            stream.cancel()

    async def _take_over(self) -> None:
        # Of several streams that wait here, each one takes over from the one before it.
        while self._stream is not None and not self._stream.done():
            self._stream.cancel()
            await asyncio.wait({self._stream})

    async def _serve(self, first: pb.RunRequest, messages: AsyncIterator[pb.RunRequest], context: Context) -> None:
        assert self._capacity is not None
        writer = StreamWriter(self._collect, context.write, backlog=self._log.backlog, max_backlog=MAX_BACKLOG_TOKENS)
        writer.accept(first.seq)
        # What another process ran is nothing this one could go on with.
        same_process = first.attach.executor_epoch == self._epoch
        self._forget(self._log.attach(decode_resumes(first.attach) if same_process else []))
        self._send(Orders(released_bases=self._bases.clear()))
        self._message_number = 1
        try:
            await writer.send(encode_attached(self._epoch, self._identity, self._capacity, self._log.requests))
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

    def _wake(self) -> None:
        if self._writer is not None:
            self._writer.wake()

    def _on_message(self, message: pb.RunRequest) -> None:
        self._log.acknowledge(message.ack)
        self._apply(message)

    def _apply(self, message: pb.RunRequest) -> None:
        orders = decode_orders(message, self._bases)
        self._cancel(orders.cancels)
        number = self._order_number + 1
        fresh = [admission for admission in orders.admissions if self._log.admit(admission, number)]
        orders.admissions = [admission for known in fresh if (admission := self._at_once(known)) is not None]
        self._send(orders)
        for refusal in orders.refusals:
            self._log.refuse(refusal)
            self._wake()
        if orders.without_base:
            logger.warning("requests %s name bases that are not known here", orders.without_base)
            self._log.turn_away(orders.without_base)
            self._wake()

    def _at_once(self, admission: Admission) -> Admission | None:
        """A request for the engine; None where it has to wait for its grammar, or has failed."""
        if admission.sampling.forced_ids:
            # They come together, and without a wait between them they are computed together.
            try:
                matcher = forced_output(admission.sampling, admission.num_prompt, self._identity)
            except InvalidRequestError as error:
                self._log.fail(RequestFailure(admission.request, code_number(error), str(error)))
                self._wake()
                return None
            return replace(admission, matcher=matcher)
        if admission.sampling.needs_matcher:
            self._fetching[admission.request] = asyncio.create_task(self._admit_with_matcher(admission))
            return None
        return admission

    def _send(self, orders: Orders) -> None:
        if orders:
            self._order_number += 1
            orders.number = self._order_number
            self._send_orders(orders)

    def _forget(self, requests: list[int]) -> None:
        """End requests that no scheduler wants any more."""
        self._cancel(requests)
        self._send(Orders(cancels=requests))

    def _cancel(self, requests: Iterable[int]) -> None:
        self._log.cancel(requests)
        for request in requests:
            fetch = self._fetching.pop(request, None)
            if fetch is not None:
                fetch.cancel()

    async def _admit_with_matcher(self, admission: Admission) -> None:
        request = admission.request
        try:
            matcher = await self._matcher_source(admission.sampling)
        except Exception as error:
            if not isinstance(error, BoughError):
                logger.error("a grammar cannot be used", exc_info=error)
            self._log.fail(RequestFailure(request, code_number(error), f"grammar: {error}"))
            self._wake()
        else:
            self._send(Orders(admissions=[replace(admission, matcher=matcher)]))
        finally:
            if self._fetching.get(request) is asyncio.current_task():
                del self._fetching[request]
