"""The detokenizer as a process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import grpc.aio
from opentelemetry.metrics import CallbackOptions, Observation
from tokenizers import Tokenizer

from bough.common.config import Settings
from bough.common.errors import ModelError
from bough.common.ids import new_epoch
from bough.common.model import read_model_files
from bough.common.rpc.channel import open_channel
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.server import RpcServer
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.common.vocab import read_vocabulary
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.router import Router
from bough.detokenizer.server import DetokenizerServicer, SchedulerLink
from bough.detokenizer.token_table import TokenTable
from bough.rpc.v1 import detokenizer_pb2, detokenizer_pb2_grpc, telemetry_pb2_grpc

_DRAIN_POLL_S = 0.05


class DetokenizerService:
    """Serves gateways and keeps the stream to the scheduler."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._telemetry = Telemetry("detokenizer", otlp_endpoint=settings.otlp_endpoint)
        self._server: RpcServer | None = None
        self._router: Router | None = None
        self._channel: grpc.aio.Channel | None = None
        self._link_task: asyncio.Task[None] | None = None
        self._ready_task: asyncio.Task[None] | None = None
        self._ready = asyncio.Event()
        self._is_ready = False

    async def start(self) -> None:
        """Load the vocabulary and serve. ModelError when the model directory does not do."""
        settings = self._settings
        if settings.model is None:
            raise ModelError("model: no model directory is set")
        files = read_model_files(
            settings.model, served_name=settings.served_model_name, max_context=settings.max_context
        )
        streams = load_streams(settings.model)
        epoch = new_epoch()
        channel = self._channel = open_channel(settings.address_of("scheduler"))
        router = self._router = Router(
            streams,
            lambda: link.wake(),
            lambda parent: self._telemetry.start_span("detokenize", parent) if self._telemetry.traces else None,
        )
        link = SchedulerLink(
            channel,
            router,
            files.identity,
            peer=self._telemetry.instance,
            epoch=epoch,
            on_ready=self._on_ready,
        )
        self._server = RpcServer(settings.listen_address("detokenizer"))
        servicer = DetokenizerServicer(
            router, streams, files.identity, epoch=epoch, orphan_grace_s=settings.orphan_grace_s
        )
        detokenizer_pb2_grpc.add_DetokenizerServiceServicer_to_server(servicer, self._server.server)
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._telemetry, lambda: {"scheduler": channel}), self._server.server
        )
        self._server.offer(detokenizer_pb2.DESCRIPTOR.services_by_name["DetokenizerService"].full_name)
        _measure(self._telemetry, router)
        await self._server.start()
        self._link_task = asyncio.create_task(link.run())
        self._ready_task = asyncio.create_task(self._publish_readiness(self._server))

    def _on_ready(self, ready: bool) -> None:
        self._is_ready = ready
        self._ready.set()

    async def _publish_readiness(self, server: RpcServer) -> None:
        while True:
            await self._ready.wait()
            self._ready.clear()
            await server.set_ready(self._is_ready)

    async def drain(self, timeout_s: float) -> None:
        """Refuse new calls and wait until the gateways have all of the accepted ones."""
        if self._server is None or self._router is None:
            return
        self._router.draining = True
        await self._end(self._ready_task)
        await self._server.set_ready(False)
        deadline = asyncio.get_running_loop().time() + timeout_s
        while self._router.num_live and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
            # The router is plain Python and knows no events; a drain happens once.
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """End; requests under way are resumed by their gateways at another copy."""
        await self._end(self._ready_task)
        if self._server is not None:
            await self._server.stop(0)
        await self._end(self._link_task)
        if self._channel is not None:
            await self._channel.close()
        self._telemetry.close()

    @staticmethod
    async def _end(task: asyncio.Task[None] | None) -> None:
        if task is not None:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


def load_streams(path: Path) -> TextStreams:
    """Text streams for a model directory; the tokenizers library is loaded only where its decoder is needed."""
    table = TokenTable(read_vocabulary(path))
    tokenizer = None if table.streams_by_bytes else Tokenizer.from_file(str(path / "tokenizer.json"))
    return TextStreams(table, tokenizer)


def create(settings: Settings) -> Service:
    """The service for these settings; loads nothing yet."""
    return DetokenizerService(settings)


def _measure(telemetry: Telemetry, router: Router) -> None:
    # Read at scrape time: adding to a counter for each row would cost more than the row.
    def tokens(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(router.totals.tokens)]

    def chars(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(router.totals.chars)]

    def live(_: CallbackOptions) -> Iterable[Observation]:
        return [Observation(router.num_live)]

    meter = telemetry.meter
    meter.create_observable_counter("bough_detokenizer_tokens", [tokens], description="Tokens made text")
    meter.create_observable_counter("bough_detokenizer_chars", [chars], description="Characters of text made")
    meter.create_observable_gauge("bough_detokenizer_live_requests", [live], description="Requests under way")
