"""The gateway as a process: REST and public gRPC in one event loop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket

from bough.common.config import DESCRIPTOR, ConfigError, Settings
from bough.common.errors import ModelError, UnavailableError
from bough.common.model import ModelFiles, read_model_files
from bough.common.rpc.introspection import IntrospectionServicer as OwnIntrospectionServicer
from bough.common.rpc.server import RpcServer
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.gateway.app import ApiKey, App, route
from bough.gateway.detokenizers import DetokenizerPool
from bough.gateway.endpoints import GenerationEndpoints
from bough.gateway.generate import Generator
from bough.gateway.http_server import HttpServer, SharedListener
from bough.gateway.markup import Markup, check_names
from bough.gateway.metrics import GatewayMetrics
from bough.gateway.pages import Pages
from bough.gateway.peers import GrammarCompiler, Scheduler, Tokenizer, retry_policy
from bough.gateway.programs.registry import Programs
from bough.gateway.programs.rest import ProgramEndpoints
from bough.gateway.programs.server import ProgramsServicer
from bough.gateway.server import InferenceServicer, IntrospectionServicer
from bough.gateway.surroundings import Surroundings
from bough.rpc.v1 import gateway_pb2_grpc, program_pb2_grpc, telemetry_pb2_grpc

logger = logging.getLogger(__name__)

_POLL_S = (0.2, 5.0)
"""Time between two looks at the chain: while it is not ready, and while it is."""

_START_S = 15.0
"""Services start at different speeds; only a chain that is not ready after this long is worth a line."""


def create(settings: Settings) -> Service:
    """The gateway of a deployment. ModelError when the model directory is missing or broken."""
    return GatewayService(settings)


class GatewayService:
    """The gateway as a Service. What belongs to an event loop is made in `start`."""

    def __init__(self, settings: Settings) -> None:
        if settings.model is None:
            raise ModelError("the gateway needs a model directory: set model")
        check_names(settings.tool_parser, settings.reasoning_parser)
        self._settings = settings
        self._model = read_model_files(
            settings.model, served_name=settings.served_model_name, max_context=settings.max_context
        )
        self._gateway: Gateway | None = None

    @property
    def gateway(self) -> Gateway:
        """What runs. RuntimeError before `start`."""
        if self._gateway is None:
            raise RuntimeError("the gateway has not been started")
        return self._gateway

    async def start(self) -> None:
        """Bind both ports. UnavailableError when one cannot be had."""
        self._gateway = Gateway(self._settings, self._model)
        await self._gateway.start()

    async def drain(self, timeout_s: float) -> None:
        """Take no new calls and wait for those under way."""
        await self.gateway.drain(timeout_s)

    async def stop(self) -> None:
        """End everything; calls that are still under way end with an error and are cancelled behind."""
        await self.gateway.stop()


class Gateway:
    """REST and gRPC servers, and the connections to the services behind them. Made in the loop it runs in."""

    def __init__(self, settings: Settings, model: ModelFiles) -> None:
        self._settings = settings
        self.telemetry = Telemetry("gateway", otlp_endpoint=settings.otlp_endpoint)
        policy = retry_policy(settings.orphan_grace_s)
        self._tokenizer = Tokenizer(settings.address_of("tokenizer"), policy)
        self._grammar = GrammarCompiler(settings.address_of("grammar"), policy)
        self._pool = DetokenizerPool(
            settings.address_of("detokenizer"),
            identity=model.identity,
            peer=f"gateway {socket.gethostname()}:{os.getpid()}",
            grace_s=settings.orphan_grace_s,
            gateway=settings.copy_index("gateway"),
            num_gateways=settings.copies_of("gateway"),
        )
        metrics = GatewayMetrics(self.telemetry)
        self._generator = Generator(
            model=model,
            tokenizer=self._tokenizer,
            grammar=self._grammar,
            markup=Markup(
                tool_parser=settings.tool_parser,
                reasoning_parser=settings.reasoning_parser,
                template=self._tokenizer.chat_template,
                encode=self._tokenizer.encode_one,
            ),
            pool=self._pool,
            metrics=metrics,
        )
        self._scheduler = Scheduler(_scheduler_address(settings), policy)
        self._programs = Programs(self._generator, self._scheduler, metrics)
        self._surroundings = Surroundings(
            tokenizer=self._tokenizer,
            grammar=self._grammar,
            pool=self._pool,
            identity=model.identity,
            telemetry=self.telemetry,
            siblings=_siblings(settings),
        )
        key = ApiKey(None if settings.api_key is None else settings.api_key.get_secret_value())
        self._app = self._make_app(key, metrics)
        self._http = HttpServer(self._app, settings.host, settings.port, _shared_listener(settings))
        self._rpc = self._make_rpc(key)
        self._own_rpc = self._make_own_rpc()
        self._polling: asyncio.Task[None] | None = None

    @property
    def http_port(self) -> int:
        """Port of the REST API, once started."""
        return self._http.port

    @property
    def grpc_port(self) -> int:
        """Port of the gRPC API, once started."""
        return self._rpc.port

    async def start(self) -> None:
        """Bind both ports. UnavailableError when one cannot be had."""
        self._pool.start()
        await self._http.start()
        try:
            await self._rpc.start()
        except RuntimeError as error:
            raise UnavailableError(f"cannot listen on {self._rpc.address}: {error}; choose another grpc_port") from None
        if self._own_rpc is not None:
            await self._own_rpc.start()
        self._polling = asyncio.create_task(self._poll(), name="readiness")
        logger.info("REST on %s:%d, gRPC on port %d", self._settings.host, self.http_port, self.grpc_port)

    async def drain(self, timeout_s: float) -> None:
        """Take no new calls and wait for those under way."""
        self._app.draining = True
        self._http.close_listener()
        self._programs.drain()
        rpc = asyncio.create_task(self._rpc.stop(timeout_s))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._generator.drained()
                await rpc

    async def stop(self) -> None:
        """End everything; calls that are still under way end with an error and are cancelled behind."""
        self._app.draining = True
        if self._polling is not None:
            self._polling.cancel()
            await asyncio.gather(self._polling, return_exceptions=True)
        self._generator.abort_all("the gateway is shutting down")
        await self._rpc.stop(0)
        if self._own_rpc is not None:
            await self._own_rpc.stop(0)
        await self._http.stop()
        await self._programs.close()
        await self._pool.stop()
        await self._scheduler.peer.close()
        await self._tokenizer.peer.close()
        await self._grammar.peer.close()
        await self._surroundings.close()
        self.telemetry.close()

    def _make_app(self, key: ApiKey, metrics: GatewayMetrics) -> App:
        limit_bytes = int(self._settings.max_body_mb * 1024 * 1024)
        pages = Pages(self._generator, self._pool, self._surroundings, limit_bytes=limit_bytes)
        generation = GenerationEndpoints(self._generator, self._pool.decode, limit_bytes=limit_bytes)
        routes = [
            route("POST", "/v1/chat/completions", generation.chat_completions),
            route("POST", "/v1/completions", generation.completions),
            route("POST", "/v1/tokenize", pages.tokenize),
            route("POST", "/v1/detokenize", pages.detokenize),
            *ProgramEndpoints(self._programs, self._generator, limit_bytes=limit_bytes).routes(),
            route("GET", "/v1/models", pages.models),
            route("GET", "/v1/models/{id:path}", pages.model),
            route("GET", "/health", pages.health),
            route("GET", "/ready", pages.ready),
            route("GET", "/metrics", pages.metrics),
        ]
        return App(routes, api_key=key, metrics=metrics, telemetry=self.telemetry)

    def _make_rpc(self, key: ApiKey) -> RpcServer:
        settings = self._settings
        port = settings.grpc_port
        if port is None:
            port = settings.port + 1 if settings.port else 0
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        rpc = RpcServer(f"{host}:{port}", shared=settings.copies_of("gateway") > 1)
        gateway_pb2_grpc.add_InferenceServicer_to_server(InferenceServicer(self._generator, key), rpc.server)
        rpc.offer("bough.rpc.v1.Inference")
        program_pb2_grpc.add_ProgramsServicer_to_server(ProgramsServicer(self._programs, key), rpc.server)
        rpc.offer("bough.rpc.v1.Programs")
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._surroundings), rpc.server
        )
        rpc.offer("bough.rpc.v1.IntrospectionService")
        return rpc

    def _make_own_rpc(self) -> RpcServer | None:
        """Health and metrics of this very process, where a connection to the public ports leads to any of several."""
        if self._settings.copies_of("gateway") == 1:
            return None
        rpc = RpcServer(self._settings.copy_addresses("gateway")[self._settings.copy_index("gateway")])
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            OwnIntrospectionServicer(self.telemetry), rpc.server
        )
        rpc.offer("bough.rpc.v1.IntrospectionService")
        return rpc

    async def _poll(self) -> None:
        """Keep the gRPC health service up to date with the chain."""
        known: set[str] | None = None
        told: set[str] | None = None
        loop = asyncio.get_running_loop()
        quiet_until_s = loop.time() + _START_S
        while True:
            troubles = await self._surroundings.troubles()
            down = set(troubles)
            if down != known:
                await self._rpc.set_ready(not down)
                if self._own_rpc is not None:
                    await self._own_rpc.set_ready(not down)
                known = down
            if down != told and (not down or told is not None or loop.time() >= quiet_until_s):
                logger.info("%s", "ready" if not down else f"not ready: {troubles}")
                told = down
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_S[0] if troubles else _POLL_S[1]):
                    self._pool.attachment_changed.clear()
                    await self._pool.attachment_changed.wait()


def _scheduler_address(settings: Settings) -> str:
    """Where the scheduler is. A gateway that nobody told serves everything but programs."""
    try:
        return settings.address_of("scheduler")
    except ConfigError:
        return ""


def _siblings(settings: Settings) -> tuple[str, ...]:
    """The other gateways of this launcher, each at its own socket."""
    if settings.copies_of("gateway") == 1:
        return ()
    index = settings.copy_index("gateway")
    return tuple(address for i, address in enumerate(settings.copy_addresses("gateway")) if i != index)


def _shared_listener(settings: Settings) -> SharedListener | None:
    if settings.listen is None or not settings.listen.startswith(DESCRIPTOR):
        return None
    number = settings.listen.removeprefix(DESCRIPTOR)
    if not number.isdigit() or settings.run_dir is None:
        raise ConfigError(f"listen {settings.listen!r}: accepted is {DESCRIPTOR}NUMBER together with run_dir")
    return SharedListener(
        descriptor=int(number),
        board_path=settings.run_dir / "gateway.load",
        slot=settings.copy_index("gateway"),
        num_slots=settings.copies_of("gateway"),
    )
