"""The grammar service as a process."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from bough.common.config import OFF, Settings
from bough.common.errors import ModelError
from bough.common.model import read_model_files
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.options import CONNECTION_AGE_S
from bough.common.rpc.server import RpcServer
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.grammar.core import Grammars
from bough.grammar.disk import DiskCache, default_folder
from bough.grammar.nursery import Nursery
from bough.grammar.pool import CompilerPool
from bough.grammar.server import GrammarServicer
from bough.rpc.v1 import grammar_pb2, grammar_pb2_grpc, telemetry_pb2_grpc


class GrammarService:
    """Serves compiled grammars; the compiling is done by processes of its own."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._telemetry = Telemetry("grammar", otlp_endpoint=settings.otlp_endpoint)
        self._server: RpcServer | None = None
        self._pool: CompilerPool | None = None
        self._grammars: Grammars | None = None

    async def start(self) -> None:
        """Start the compilers and serve. ModelError when the model directory does not do."""
        settings = self._settings
        if settings.model is None:
            raise ModelError("model: no model directory is set")
        files = read_model_files(
            settings.model, served_name=settings.served_model_name, max_context=settings.max_context
        )
        identity = files.identity
        pool = self._pool = _make_pool(settings, identity.vocab_size, files.eos_token_ids)
        await pool.start()
        self._grammars = Grammars(
            pool.compile,
            vocab_hash=identity.vocab_hash,
            format_version=pool.format,
            max_bytes=settings.grammar_cache_mb << 20,
            disk=_make_disk(settings),
        )
        self._server = RpcServer(settings.listen_address("grammar"), connection_age_s=CONNECTION_AGE_S)
        grammar_pb2_grpc.add_GrammarServiceServicer_to_server(
            GrammarServicer(self._grammars, identity, self._telemetry, lambda: pool.num_waiting), self._server.server
        )
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._telemetry), self._server.server
        )
        self._server.offer(grammar_pb2.DESCRIPTOR.services_by_name["GrammarService"].full_name)
        await self._server.start()
        await self._server.set_ready(True)

    async def drain(self, timeout_s: float) -> None:
        """Answer the calls under way and take no new ones."""
        if self._server is not None:
            await self._server.stop(timeout_s)

    async def stop(self) -> None:
        """End."""
        if self._server is not None:
            await self._server.stop(0)
        if self._grammars is not None:
            self._grammars.close()
        if self._pool is not None:
            await self._pool.stop()
        self._telemetry.close()


def _make_pool(settings: Settings, vocab_size: int, stop_token_ids: Collection[int]) -> CompilerPool:
    assert settings.model is not None
    nursery = Nursery(settings.model, vocab_size=vocab_size, stop_token_ids=stop_token_ids)
    return CompilerPool(nursery, settings.grammar_workers)


def _make_disk(settings: Settings) -> DiskCache | None:
    folder = default_folder() if settings.grammar_cache_dir is None else Path(settings.grammar_cache_dir)
    if folder is None or settings.grammar_cache_dir == OFF:
        return None
    return DiskCache(folder, settings.grammar_disk_mb << 20)


def create(settings: Settings) -> Service:
    """The service for these settings; starts nothing yet."""
    return GrammarService(settings)
