"""uvicorn inside our own process: no signal handlers, no tick while idle, and a drain that we time ourselves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import ASGIApp, Scope
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from bough.common.errors import UnavailableError
from bough.gateway.acceptor import Acceptor, LoadBoard

logger = logging.getLogger(__name__)

_KEEP_ALIVE_S = 75
"""Longer than what clients keep idle connections for, so that it is they who close them."""


_BODY = "bough.body"
"""ASGI extension: the connection itself, for bodies that are written in many small pieces."""


class BodyWriter:
    """Writes pieces of a chunked body from wherever they are made.

    ASGI's `send` is a coroutine through three layers, which costs more than the write itself when a piece is one token.
    Used between the start of an answer and its last piece, which both go through `send`.
    """

    __slots__ = ("_descriptor", "_flow", "_transport")

    def __init__(self, transport: asyncio.Transport, flow: FlowControl) -> None:
        self._transport = transport
        self._flow = flow
        self._descriptor: int = transport.get_extra_info("socket").fileno()

    def write(self, data: bytes) -> Awaitable[None] | None:
        """Write a piece, not empty. Returns what to wait for when the client reads more slowly than this is written."""
        transport = self._transport
        if transport.is_closing():
            return None  # the client is gone, which its `receive` says
        chunk = b"%x\r\n%b\r\n" % (len(data), data)
        # Straight to the socket where nothing waits before it: the transport's queue costs as much again.
        if not transport.get_write_buffer_size():
            try:
                written = os.write(self._descriptor, chunk)
            except OSError:
                written = 0  # its buffer is full, or the connection broke, which the transport finds out
            if written == len(chunk):
                return None
            chunk = chunk[written:]
        transport.write(chunk)
        return self._flow.drain() if self._flow.write_paused else None


def body_writer(scope: Scope) -> BodyWriter:
    """The writer of a request's connection."""
    writer: BodyWriter = scope["extensions"][_BODY]
    return writer


class _Protocol(HttpToolsProtocol):
    """A connection that lets the application write bodies to it directly."""

    on_lost: Callable[[], None] | None = None
    """Called once when the connection has ended."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        writer = BodyWriter(self.transport, self.flow)
        self.scope["extensions"] = {_BODY: writer}  # type: ignore[dict-item]  # any extension is a dict there

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        if self.on_lost is not None:
            self.on_lost()


class _QuietServer(uvicorn.Server):
    """Runs until asked to end, without waking up ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.asked_to_end = asyncio.Event()
        self.bound = asyncio.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # The process has handlers of its own.
        yield

    async def main_loop(self) -> None:
        self.bound.set()
        await self.asked_to_end.wait()

    def new_protocol(self) -> _Protocol:
        """A protocol for one connection that was accepted elsewhere."""
        return _Protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedListener:
    """A listening socket that several gateways accept from."""

    descriptor: int
    """Inherited from the launcher."""
    board_path: Path
    """File of the `LoadBoard`."""
    slot: int
    num_slots: int


class HttpServer:
    """Serves an ASGI application on one TCP address.

    Args:
        app: The application.
        host: Where to listen.
        port: Where to listen.
        shared: What to accept from instead, where several gateways serve one address.
    """

    def __init__(self, app: ASGIApp, host: str, port: int, shared: SharedListener | None = None) -> None:
        self._host = host
        self._port = port
        self._shared = shared
        self._board: LoadBoard | None = None
        self._acceptor: Acceptor | None = None
        self._connecting: set[asyncio.Task[None]] = set()
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=1,
        )
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Bind and serve. UnavailableError when the address cannot be bound."""
        sock = bind(self._host, self._port) if self._shared is None else _inherited(self._shared.descriptor)
        self.port = sock.getsockname()[1]
        sockets = [sock] if self._shared is None else []
        self._task = asyncio.create_task(self._server.serve(sockets=sockets), name="http server")
        bound = asyncio.create_task(self._server.bound.wait())
        await asyncio.wait({self._task, bound}, return_when=asyncio.FIRST_COMPLETED)
        bound.cancel()
        if self._task.done():
            self._task.result()
        if self._shared is not None:
            board = self._board = LoadBoard(self._shared.board_path, self._shared.slot, self._shared.num_slots)
            self._acceptor = Acceptor(sock, board, lambda connection: self._serve(board, connection))

    def close_listener(self) -> None:
        """Take no new connections; open ones go on."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None
        for server in self._server.servers:
            server.close()

    async def stop(self) -> None:
        """Close all connections, those in use after a second."""
        self.close_listener()
        self._server.asked_to_end.set()
        if self._task is not None:
            await self._task
        if self._board is not None:
            self._board.close()
            self._board = None

    def _serve(self, board: LoadBoard, connection: socket.socket) -> None:
        task = asyncio.create_task(self._connect(board, connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, board: LoadBoard, connection: socket.socket) -> None:
        def lost() -> None:
            if self._board is board:
                board.add(-1)

        def make() -> _Protocol:
            protocol = self._server.new_protocol()
            protocol.on_lost = lost
            return protocol

        try:
            await asyncio.get_running_loop().connect_accepted_socket(make, connection)
        except OSError as error:  # the client is gone already
            connection.close()
            lost()
            logger.debug("a connection broke as it began: %s", error)


def _inherited(descriptor: int) -> socket.socket:
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UnavailableError(f"listen: descriptor {descriptor} is no listening socket: {error.strerror}") from None
    sock.setblocking(False)
    return sock


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. UnavailableError says which address cannot be had and why."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UnavailableError(f"cannot listen on {host}:{port}: {error.strerror}; choose another port") from None
    sock.setblocking(False)
    return sock
