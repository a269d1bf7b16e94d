"""The executor as a process."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from typing import Literal, cast

import grpc.aio
import torch

from bough.common import grammar_warmup
from bough.common.config import Settings
from bough.common.errors import BoughError, InternalError, ModelError
from bough.common.ids import new_epoch
from bough.common.model import ModelFiles, read_model_files
from bough.common.rpc.channel import open_channel
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.server import RpcServer
from bough.common.sampling import SamplingParams
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.executor.engine import Engine
from bough.executor.gpu.device import choose_device
from bough.executor.grammar_client import compile_schema, fetch_grammar
from bough.executor.grammars import GrammarStore
from bough.executor.intake import Model
from bough.executor.loop import EngineLoop
from bough.executor.mixed_budget import DEFAULT_MIXED_TOKENS
from bough.executor.models.config import ModelError as ModelReadError
from bough.executor.observer import Observer
from bough.executor.orders import StepReport
from bough.executor.pipeline.base import Pipeline
from bough.executor.pipeline.host import HostPipeline
from bough.executor.row_table import RowTable
from bough.executor.runner import ModelRunner, RunnerConfig
from bough.executor.running import Matcher
from bough.executor.server import ExecutorServicer
from bough.rpc.v1 import executor_pb2, executor_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc

logger = logging.getLogger(__name__)

DEFAULT_MAX_ROWS = 256
DEFAULT_TOKEN_BUDGET = 1024
"""On a CPU: large enough that matrix products are efficient, small enough that decodes wait little for a prompt."""

DEFAULT_GPU_TOKEN_BUDGET = 8192

_FOR_ONE_DEVICE = {"attention_prefill": "cuda", "compile": "cuda", "backend": "cpu", "threads": "cpu"}
"""Settings that only one type of device reads."""

_DRAIN_POLL_S = 0.02
_Loaded = tuple[Model, Callable[[RowTable], Pipeline]]


class ExecutorService:
    """The engine on its thread, and the server that schedulers attach to.

    Args:
        settings: What to serve and how.
        exit_process: Called when the engine has failed; must have the process drain and stop.
    """

    def __init__(self, settings: Settings, *, exit_process: Callable[[], None]) -> None:
        if settings.model is None:
            raise ModelError("model: no model directory is set")
        self._settings = settings
        self._exit = exit_process
        self._telemetry = Telemetry("executor", otlp_endpoint=settings.otlp_endpoint)
        self._observer = Observer(self._telemetry)
        self._files = read_model_files(
            settings.model, served_name=settings.served_model_name, max_context=settings.max_context
        )
        self._server: RpcServer | None = None
        self._servicer: ExecutorServicer | None = None
        self._loop: EngineLoop | None = None
        self._grammars: GrammarStore | None = None
        self._grammar_channel: grpc.aio.Channel | None = None
        self._ready: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._failure: BoughError | None = None
        self._began_s = time.monotonic()

    async def start(self) -> None:
        """Serve at once; ready when the model is loaded on the engine's thread."""
        loop = self._loop = EngineLoop(
            build=self._build,
            on_ready=self._on_ready,
            on_report=self._on_report,
            on_failure=self._on_failure,
        )
        self._servicer = ExecutorServicer(
            self._files.identity, epoch=new_epoch(), send=loop.send, matcher_source=self._matcher
        )
        server = self._server = RpcServer(self._settings.listen_address("executor"))
        executor_pb2_grpc.add_ExecutorServiceServicer_to_server(self._servicer, server.server)
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._telemetry), server.server
        )
        server.offer(executor_pb2.DESCRIPTOR.services_by_name["ExecutorService"].full_name)
        server.offer(telemetry_pb2.DESCRIPTOR.services_by_name["IntrospectionService"].full_name)
        await server.start()
        loop.start()

    async def drain(self, timeout_s: float) -> None:
        """Wait until what runs has ended and the scheduler has it. Raises what ended the engine, if it has ended."""
        if self._failure is not None:
            raise self._failure
        deadline_s = time.monotonic() + timeout_s
        if self._server is not None:
            await self._server.set_ready(False)
        while self._servicer is not None and self._servicer.has_work and time.monotonic() < deadline_s:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_S)

    async def stop(self) -> None:
        """End everything."""
        if self._servicer is not None:
            await self._servicer.close()
        if self._warming is not None:
            self._warming.cancel()
            await asyncio.gather(self._warming, return_exceptions=True)
        if self._grammars is not None:
            await self._grammars.close()
        if self._grammar_channel is not None:
            await self._grammar_channel.close()
        if self._server is not None:
            await self._server.stop(0)
        if self._loop is not None:
            await asyncio.to_thread(self._loop.stop)
        self._telemetry.close()

    def _build(self) -> Engine:
        return build_engine(self._settings, self._files, self._observer)

    def _on_ready(self, engine: Engine) -> None:
        capacity = engine.capacity
        logger.info(
            "model loaded in %.1f s: %d rows, %d pages of %d tokens, token budget %d",
            time.monotonic() - self._began_s,
            capacity.max_rows,
            capacity.num_pages,
            capacity.page_size,
            capacity.token_budget,
        )
        assert self._servicer is not None and self._server is not None
        self._observer.gauges = engine.gauges()
        self._servicer.engine_ready(capacity)
        self._ready = asyncio.create_task(self._server.set_ready(True))
        self._warming = asyncio.create_task(self._warm_up(), name="warm-up of grammars")

    def _on_report(self, report: StepReport) -> None:
        assert self._servicer is not None
        if report.gauges is not None:
            self._observer.gauges = report.gauges
        self._servicer.on_report(report)

    def _on_failure(self, error: BaseException) -> None:
        # Without its engine the process is of no use; it ends with this error, and whoever supervises it starts a new
        # one.
        if isinstance(error, BoughError):
            self._failure = error
        elif isinstance(error, ModelReadError):
            self._failure = ModelError(str(error))
        else:
            logger.critical("the engine failed", exc_info=error)
            self._failure = InternalError(f"the engine failed: {type(error).__name__}: {error}")
        self._exit()

    async def _matcher(self, params: SamplingParams) -> Matcher:
        grammars, _ = self._connect_grammars()
        return await grammars.matcher_of(params)

    async def _warm_up(self) -> None:
        """Make what the first request with a grammar would wait for: a second or two with a large vocabulary."""
        grammars, channel = self._connect_grammars()
        try:
            await grammars.warm_up(await compile_schema(channel, grammar_warmup.SCHEMA))
        except BoughError as error:
            logger.debug("grammars are not warmed up: %s", error)

    def _connect_grammars(self) -> tuple[GrammarStore, grpc.aio.Channel]:
        if self._grammars is None or self._grammar_channel is None:
            channel = self._grammar_channel = open_channel(self._settings.address_of("grammar"))
            self._grammars = GrammarStore(
                self._files.path,
                vocab_size=self._files.identity.vocab_size,
                stop_token_ids=self._files.eos_token_ids,
                fetch=lambda wanted: fetch_grammar(channel, wanted),
                max_bytes=self._settings.grammar_cache_mb << 20,
                jumps=self._settings.jump_forward,
            )
        return self._grammars, self._grammar_channel


def _ask_to_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def build_engine(settings: Settings, files: ModelFiles, observer: Observer) -> Engine:
    """Load the model and make the engine; called on the thread that steps it. ModelError when it cannot be served."""
    device = choose_device(cast(Literal["auto", "cpu", "cuda"], settings.device))
    on_gpu = device.type == "cuda"
    _warn_of_settings_without_effect(settings, device)
    max_rows = settings.max_rows or DEFAULT_MAX_ROWS
    default_budget = DEFAULT_GPU_TOKEN_BUDGET if on_gpu else DEFAULT_TOKEN_BUDGET
    config = RunnerConfig(
        model_dir=files.path,
        dtype=cast(Literal["auto", "float32", "bfloat16"], settings.dtype),
        max_rows=max_rows,
        token_budget=max(settings.token_budget or default_budget, max_rows + 1),
        max_context=files.identity.max_context,
        num_pages=settings.kv_pages,
        num_threads=settings.threads,
        backend=cast(Literal["auto", "native", "torch"], settings.backend),
        load_format=cast(Literal["auto", "dummy"], settings.load_format),
        attention_prefill=cast(Literal["auto", "triton", "flashinfer"], settings.attention_prefill),
        compile=cast(Literal["off", "default", "max-autotune"], settings.compile),
    )
    load = _load_on_gpu if on_gpu else _load_on_host
    model, make_pipeline = load(config, device, files.eos_token_ids)
    return Engine(
        model,
        eos_token_ids=files.eos_token_ids,
        max_rows=max_rows,
        token_budget=config.token_budget,
        mixed_token_budget=settings.mixed_token_budget or (None if on_gpu else DEFAULT_MIXED_TOKENS),
        observer=observer,
        make_pipeline=make_pipeline,
    )


def _warn_of_settings_without_effect(settings: Settings, device: torch.device) -> None:
    """Say once which settings were given that the device in use has nothing to do with."""
    given = [
        f"{name} = {getattr(settings, name)!r}"
        for name, reader in _FOR_ONE_DEVICE.items()
        if reader != device.type and getattr(settings, name) != Settings.model_fields[name].default
    ]
    if given:
        here, other = ("a GPU", "a CPU") if device.type == "cuda" else ("a CPU", "a GPU")
        logger.warning("without effect on %s: %s; for %s alone", here, ", ".join(given), other)


def _log_progress(fraction: float, what: str) -> None:
    logger.debug("loading %3.0f %%: %s", 100 * fraction, what)


def _load_on_host(config: RunnerConfig, device: torch.device, eos_token_ids: Sequence[int]) -> _Loaded:
    runner = ModelRunner.load(config, progress=_log_progress)
    return runner, lambda table: HostPipeline(runner, table, eos_token_ids=eos_token_ids)


def _load_on_gpu(config: RunnerConfig, device: torch.device, eos_token_ids: Sequence[int]) -> _Loaded:
    # Triton is needed here alone.
    from bough.executor.gpu.pipeline import GpuPipeline
    from bough.executor.gpu.runner import GpuRunner

    runner = GpuRunner.load(config, device, progress=_log_progress)
    return runner, lambda table: GpuPipeline(runner, table, eos_token_ids=eos_token_ids, progress=_log_progress)


def create(settings: Settings) -> Service:
    """The service for these settings; loads nothing yet. ModelError when the model directory does not do."""
    return ExecutorService(settings, exit_process=_ask_to_end)
