"""The detokenizer's gRPC side: streams of gateways in, one stream to the scheduler out."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterable, Callable
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.codec import (
    decode_failure,
    decode_identity,
    decode_resume,
    decode_started,
    decode_submission,
    decode_text_options,
    decode_tokens,
    encode_identity,
    encode_resume,
)
from bough.common.errors import InvalidRequestError, UnavailableError, code_number
from bough.common.model import ModelIdentity, check_same_model
from bough.common.requests import RequestFailure
from bough.common.rpc.server import READY_SERVICE
from bough.common.rpc.streams import ReconnectingStream, StreamWriter, pump
from bough.detokenizer.codec import encode_outgoing, encode_upstream
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.outbox import GatewayOutbox
from bough.detokenizer.router import Router
from bough.rpc.v1 import common_pb2, detokenizer_pb2_grpc, scheduler_pb2, scheduler_pb2_grpc
from bough.rpc.v1 import detokenizer_pb2 as pb

logger = logging.getLogger(__name__)

MAX_BACKLOG_TOKENS = 1 << 18
"""Tokens gathered for one gateway beyond which it is cut off; it comes back and resumes."""

Context = grpc.aio.ServicerContext[Any, Any]


class DetokenizerServicer(detokenizer_pb2_grpc.DetokenizerServiceServicer):
    """Serves gateways from a `Router`.

    Args:
        router: Where requests are kept.
        streams: Decodes whole sequences for `Decode`.
        identity: The model, which a gateway must hold too.
        epoch: Of this process.
        orphan_grace_s: How long requests wait for a gateway that lost its stream.
        max_backlog: Tokens gathered for a gateway that does not read.
    """

    def __init__(
        self,
        router: Router,
        streams: TextStreams,
        identity: ModelIdentity,
        *,
        epoch: int,
        orphan_grace_s: float,
        max_backlog: int = MAX_BACKLOG_TOKENS,
    ) -> None:
        self._router = router
        self._streams = streams
        self._identity = identity
        self._epoch = epoch
        self._orphan_grace_s = orphan_grace_s
        self._max_backlog = max_backlog

    async def Describe(
        self, request: pb.DetokenizerDescribeRequest, context: Context
    ) -> pb.DetokenizerDescribeResponse:
        """What is served."""
        return pb.DetokenizerDescribeResponse(identity=encode_identity(self._identity), epoch=self._epoch)

    async def Decode(self, request: pb.DecodeRequest, context: Context) -> pb.DecodeResponse:
        """Text of a batch of token ids."""
        if sum(request.counts) != len(request.tokens):
            raise InvalidRequestError(
                f"counts: they add up to {sum(request.counts)}, but there are {len(request.tokens)} tokens",
                field="counts",
            )
        return pb.DecodeResponse(texts=await asyncio.to_thread(self._decode, request))

    def _decode(self, request: pb.DecodeRequest) -> list[str]:
        tokens = list(request.tokens)
        ends = list(itertools.accumulate(request.counts))
        return [
            self._streams.decode(tokens[end - count : end], skip_special_tokens=request.skip_special_tokens)
            for end, count in zip(ends, request.counts, strict=True)
        ]

    # The generated base class knows only handlers that yield; this one writes to the context, as a StreamWriter must.
    async def Stream(  # type: ignore[override]
        self, request_iterator: AsyncIterable[pb.DetokenizerRequest], context: Context
    ) -> None:
        """The stream of one gateway."""
        messages = aiter(request_iterator)
        first = await anext(messages, None)
        if first is None or not first.HasField("attach"):
            raise InvalidRequestError("attach: the first message of a stream must carry it", field="attach")
        peer = first.attach.peer
        if first.attach.HasField("identity"):
            check_same_model(self._identity, decode_identity(first.attach.identity), peer=f"gateway {peer}")

        def collect() -> pb.DetokenizerResponse | None:
            outgoing = outbox.collect()
            return None if outgoing is None else encode_outgoing(outgoing, self._streams.table)

        outbox = GatewayOutbox(lambda: writer.wake())
        writer = StreamWriter(collect, context.write, backlog=outbox.backlog, max_backlog=self._max_backlog)
        writer.accept(first.seq)
        attached = common_pb2.Attached(epoch=self._epoch, identity=encode_identity(self._identity))
        await writer.send(pb.DetokenizerResponse(attached=attached))
        logger.debug("gateway %s attached", peer)
        try:
            self._receive(outbox, first)
            await pump(messages, writer, lambda message: self._receive(outbox, message))
        finally:
            orphans = self._router.close_gateway(outbox)
            if orphans:
                logger.info("gateway %s left %d requests; they wait %.0f s", peer, len(orphans), self._orphan_grace_s)
                asyncio.get_running_loop().call_later(self._orphan_grace_s, self._router.expire, outbox, orphans)

    def _receive(self, outbox: GatewayOutbox, message: pb.DetokenizerRequest) -> None:
        for submit in message.submits:
            self._submit(outbox, submit)
        for resume in message.resumes:
            self._router.on_resume(outbox, decode_resume(resume))
        for request in message.cancels:
            self._router.on_cancel(request)
        for request in message.released:
            self._router.on_released(request)

    def _submit(self, outbox: GatewayOutbox, submit: common_pb2.Submit) -> None:
        try:
            submission = decode_submission(submit)
        except ValueError as error:
            # One malformed call must not end the stream that carries everybody else's.
            refusal = InvalidRequestError(f"sampling is malformed: {error}", field="sampling")
            for request in submit.requests:
                outbox.add_failure(RequestFailure(request, code_number(refusal), str(refusal)))
            return
        self._router.on_submit(outbox, submission)


class SchedulerLink:
    """The stream to the scheduler, and whether the scheduler can serve.

    Args:
        channel: To the scheduler.
        router: What the stream is for.
        identity: The model, which the scheduler must serve too.
        peer: Name of this copy, for the scheduler's logs.
        epoch: Of this process.
        on_ready: Told when the chain behind this service becomes able to serve, or stops being so.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        router: Router,
        identity: ModelIdentity,
        *,
        peer: str,
        epoch: int,
        on_ready: Callable[[bool], None],
    ) -> None:
        self._router = router
        self._identity = identity
        self._attach = common_pb2.Attach(peer=peer, epoch=epoch, identity=encode_identity(identity))
        self._on_ready = on_ready
        self._health = health_pb2_grpc.HealthStub(channel)
        self._scheduler_ready = False
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        self._stream: ReconnectingStream[scheduler_pb2.SchedulerRequest, scheduler_pb2.SchedulerResponse] = (
            ReconnectingStream(
                open_call=lambda: stub.Stream(),
                hello=self._hello,
                collect=self._collect,
                on_message=self._receive,
                on_change=lambda _: self._tell(),
                peer="scheduler",
            )
        )

    def wake(self) -> None:
        """The router has something for the scheduler."""
        self._stream.wake()

    async def run(self) -> None:
        """Keep the stream open and follow the scheduler's health until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._stream.run())
            group.create_task(self._watch())

    async def _watch(self) -> None:
        while True:
            try:
                async for status in self._health.Watch(health_pb2.HealthCheckRequest(service=READY_SERVICE)):
                    self._scheduler_ready = status.status == health_pb2.HealthCheckResponse.SERVING
                    self._tell()
            except grpc.aio.AioRpcError as error:
                logger.debug("cannot watch the scheduler's health: %s", error.code().name)
            self._scheduler_ready = False
            self._tell()
            await asyncio.sleep(0.2)

    def _tell(self) -> None:
        self._on_ready(self._scheduler_ready and self._stream.attached)

    def _hello(self) -> scheduler_pb2.SchedulerRequest:
        return scheduler_pb2.SchedulerRequest(
            attach=self._attach, resumes=[encode_resume(point) for point in self._router.reattach()]
        )

    def _collect(self) -> scheduler_pb2.SchedulerRequest | None:
        upstream = self._router.collect_upstream()
        return None if upstream is None else encode_upstream(upstream)

    def _receive(self, message: scheduler_pb2.SchedulerResponse) -> None:
        if message.HasField("attached") and message.attached.identity.revision:
            check_same_model(self._identity, decode_identity(message.attached.identity), peer="the scheduler")
        for resumed in message.resumed:
            self._router.on_resumed(resumed.request, decode_text_options(resumed.text), tuple(resumed.prompt_tail))
        if message.HasField("started"):
            self._router.on_started(decode_started(message.started))
        if message.HasField("tokens"):
            try:
                batch = decode_tokens(message.tokens)
            except ValueError as error:
                raise UnavailableError(f"the scheduler sent {error}") from None
            self._router.on_tokens(batch)
        if message.errors:
            self._router.on_failures([decode_failure(error) for error in message.errors])
