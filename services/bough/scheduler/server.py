"""The scheduler's contract over gRPC: decodes, calls the core, encodes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio

from bough.common.codec import decode_identity, decode_submission, encode_identity
from bough.common.errors import BoughError, InvalidRequestError
from bough.common.rpc.streams import StreamWriter, pump
from bough.rpc.v1 import common_pb2, scheduler_pb2, scheduler_pb2_grpc
from bough.scheduler import failures
from bough.scheduler.codec import decode_program_change, encode_state_answers, encode_update
from bough.scheduler.consumers import Consumer
from bough.scheduler.core import Scheduler

MAX_BACKLOG_ROWS = 1 << 18
"""Rows gathered for a consumer that takes none: half a minute of a fast executor, a few megabytes."""

Context = grpc.aio.ServicerContext[Any, Any]


class SchedulerServicer(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Answers detokenizers, and gateways that run programs.

    Args:
        core: The scheduler.
        epoch: Start of this process.
        settled: Called after each change of the core's state.
        max_backlog_rows: Beyond this a consumer is cut off; it comes back and resumes.
    """

    def __init__(
        self,
        core: Scheduler,
        *,
        epoch: int,
        settled: Callable[[], None],
        max_backlog_rows: int = MAX_BACKLOG_ROWS,
    ) -> None:
        self._core = core
        self._epoch = epoch
        self._settled = settled
        self._max_backlog_rows = max_backlog_rows

    async def Describe(
        self, request: scheduler_pb2.SchedulerDescribeRequest, context: Context
    ) -> scheduler_pb2.SchedulerDescribeResponse:
        """Which model is served."""
        identity = self._core.identity
        return scheduler_pb2.SchedulerDescribeResponse(
            identity=None if identity is None else encode_identity(identity), epoch=self._epoch
        )

    async def ChangeProgram(
        self, request: scheduler_pb2.ChangeProgramRequest, context: Context
    ) -> scheduler_pb2.ChangeProgramResponse:
        """Carry out orders for a program."""
        try:
            return encode_state_answers(self._core.change_program(decode_program_change(request)))
        finally:
            self._settled()

    # A coroutine that writes to the context, not a generator: a write then returns when flow control has let it pass.
    async def Stream(  # type: ignore[override]
        self, request_iterator: AsyncIterator[scheduler_pb2.SchedulerRequest], context: Context
    ) -> None:
        """Serve a consumer until its stream ends."""
        first = await anext(aiter(request_iterator), None)
        if first is None:
            return
        if not first.HasField("attach"):
            raise InvalidRequestError("attach is missing: the first message of a stream must carry it", field="attach")
        cut: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        consumer, writer = self._consumer(first.attach, context, cut)
        self._core.attach_consumer(consumer)
        try:
            writer.accept(first.seq)
            await writer.send(self._attached())
            self._on_message(consumer, first)
            pumping = asyncio.create_task(
                pump(request_iterator, writer, lambda message: self._on_message(consumer, message))
            )
            await _until_cut(pumping, cut)
        finally:
            self._core.on_consumer_lost(consumer)
            self._settled()

    def _consumer(
        self, attach: common_pb2.Attach, context: Context, cut: asyncio.Future[None]
    ) -> tuple[Consumer, StreamWriter[scheduler_pb2.SchedulerResponse]]:
        def end(error: BoughError) -> None:
            if not cut.done():
                cut.set_exception(error)

        consumer = Consumer(
            attach.peer or "a consumer",
            wake=lambda: writer.wake(),
            cut=end,
            identity=decode_identity(attach.identity) if attach.HasField("identity") else None,
        )

        def collect() -> scheduler_pb2.SchedulerResponse | None:
            update = consumer.collect()
            return None if update is None else encode_update(update)

        writer: StreamWriter[scheduler_pb2.SchedulerResponse] = StreamWriter(
            collect, context.write, backlog=consumer.backlog, max_backlog=self._max_backlog_rows
        )
        return consumer, writer

    def _attached(self) -> scheduler_pb2.SchedulerResponse:
        identity = self._core.identity
        attached = common_pb2.Attached(
            epoch=self._epoch, identity=None if identity is None else encode_identity(identity)
        )
        return scheduler_pb2.SchedulerResponse(attached=attached)

    def _on_message(self, consumer: Consumer, message: scheduler_pb2.SchedulerRequest) -> None:
        core = self._core
        if len(message.stopped) != len(message.stopped_lengths):
            raise InvalidRequestError(
                f"stopped_lengths has {len(message.stopped_lengths)} entries, stopped {len(message.stopped)}: "
                "as many are needed",
                field="stopped_lengths",
            )
        for submit in message.submits:
            self._on_submit(consumer, submit)
        for resume in message.resumes:
            core.on_resume(consumer, resume.request, resume.position)
        for request in message.cancels:
            core.on_cancel(consumer, request)
        for request, length in zip(message.stopped, message.stopped_lengths, strict=True):
            core.on_stopped(consumer, request, length)
        for request in message.released:
            core.on_released(consumer, request)
        self._settled()

    def _on_submit(self, consumer: Consumer, submit: common_pb2.Submit) -> None:
        try:
            submission = decode_submission(submit)
        except ValueError as error:
            # One bad call must not take the stream down, which carries everybody else's.
            for request in submit.requests:
                consumer.fail(failures.invalid(request, f"sampling is malformed: {error}"))
            consumer.wake()
            return
        self._core.on_submit(consumer, submission)


async def _until_cut(pumping: asyncio.Task[None], cut: asyncio.Future[None]) -> None:
    try:
        await asyncio.wait({pumping, cut}, return_when=asyncio.FIRST_COMPLETED)
        if cut.done():
            cut.result()
        pumping.result()
    finally:
        cut.cancel()
        pumping.cancel()
        await asyncio.gather(pumping, return_exceptions=True)
