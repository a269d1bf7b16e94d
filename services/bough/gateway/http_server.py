"""uvicorn inside our own process: no signal handlers, no tick while idle, and a drain that we time ourselves."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from bough.common.errors import UnavailableError

_KEEP_ALIVE_S = 75
"""Longer than what clients keep idle connections for, so that it is they who close them."""


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


class HttpServer:
    """Serves an ASGI application on one TCP address."""

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self._host = host
        self._port = port
        config = uvicorn.Config(
            app,
            http="httptools",
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
        sock = bind(self._host, self._port)
        self.port = sock.getsockname()[1]
        self._task = asyncio.create_task(self._server.serve(sockets=[sock]), name="http server")
        bound = asyncio.create_task(self._server.bound.wait())
        await asyncio.wait({self._task, bound}, return_when=asyncio.FIRST_COMPLETED)
        bound.cancel()
        if self._task.done():
            self._task.result()

    def close_listener(self) -> None:
        """Take no new connections; open ones go on."""
        for server in self._server.servers:
            server.close()

    async def stop(self) -> None:
        """Close all connections, those in use after a second."""
        self._server.asked_to_end.set()
        if self._task is not None:
            await self._task


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
