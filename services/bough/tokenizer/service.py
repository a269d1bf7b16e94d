"""The tokenizer as a process."""

from __future__ import annotations

from bough.common.config import Settings
from bough.common.errors import ModelError
from bough.common.model import read_model_files
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.options import CONNECTION_AGE_S
from bough.common.rpc.server import RpcServer
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.rpc.v1 import telemetry_pb2_grpc, tokenizer_pb2, tokenizer_pb2_grpc
from bough.tokenizer.core import ChatTokenizer
from bough.tokenizer.server import TokenizerServicer


class TokenizerService:
    """Loads the model's tokenizer and serves it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._telemetry = Telemetry("tokenizer", otlp_endpoint=settings.otlp_endpoint)
        self._server: RpcServer | None = None
        self._tokenizer: ChatTokenizer | None = None

    async def start(self) -> None:
        """Load and serve. ModelError when the model directory does not do."""
        settings = self._settings
        if settings.model is None:
            raise ModelError("model: no model directory is set")
        files = read_model_files(
            settings.model, served_name=settings.served_model_name, max_context=settings.max_context
        )
        self._tokenizer = ChatTokenizer.from_directory(settings.model)
        self._server = RpcServer(settings.listen_address("tokenizer"), connection_age_s=CONNECTION_AGE_S)
        tokenizer_pb2_grpc.add_TokenizerServiceServicer_to_server(
            TokenizerServicer(self._tokenizer, files.identity, self._telemetry), self._server.server
        )
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._telemetry), self._server.server
        )
        self._server.offer(tokenizer_pb2.DESCRIPTOR.services_by_name["TokenizerService"].full_name)
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
        if self._tokenizer is not None:
            self._tokenizer.close()
        self._telemetry.close()


def create(settings: Settings) -> Service:
    """The service for these settings; loads nothing yet."""
    return TokenizerService(settings)
