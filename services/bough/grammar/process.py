"""The compiler process, seen from the service: started again when it dies, killed when it takes too long."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
from asyncio import StreamReader, StreamWriter
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from typing import Any

from bough.common.errors import InvalidRequestError, ModelError, UnavailableError
from bough.common.sampling import GrammarKind
from bough.grammar import frames

logger = logging.getLogger(__name__)

COMPILE_LIMIT_S = 10.0
_START_LIMIT_S = 120.0


class _Child:
    """A running process and the connection to it, which is both its standard input and output."""

    def __init__(self, popen: subprocess.Popen[bytes], reader: StreamReader, writer: StreamWriter) -> None:
        self._popen = popen
        self.reader = reader
        self.writer = writer

    @classmethod
    async def start(cls) -> _Child:
        """Start one."""
        ours, theirs = socket.socketpair()
        with theirs:
            popen = _spawn(theirs.fileno())
        reader, writer = await asyncio.open_connection(sock=ours)
        return cls(popen, reader, writer)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._popen.pid

    @property
    def is_dead(self) -> bool:
        """Whether it has ended."""
        return self._popen.poll() is not None

    async def kill(self) -> None:
        """End it and wait until it is gone."""
        self.writer.close()
        self._popen.kill()
        await asyncio.shield(asyncio.to_thread(self._popen.wait))


class CompilerProcess:
    """Compiles one source at a time.

    Args:
        path: Model directory.
        vocab_size: Rows of the model's logits.
        stop_token_ids: The model's end-of-sequence ids.
        limit_s: How long a source may take.
        threads: Threads of one compilation.
    """

    def __init__(
        self,
        path: Path,
        *,
        vocab_size: int,
        stop_token_ids: Collection[int],
        limit_s: float = COMPILE_LIMIT_S,
        threads: int = 2,
    ) -> None:
        self._setup = {
            "path": str(path),
            "vocab_size": vocab_size,
            "stop_token_ids": list(stop_token_ids),
            "threads": threads,
        }
        self._limit_s = limit_s
        self._process: _Child | None = None
        self._turn = asyncio.Lock()
        self._restart: asyncio.Task[None] | None = None
        self.format = ""
        """Of the compiled form; known once started."""

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._process is None else self._process.pid

    @property
    def restarting(self) -> asyncio.Task[None] | None:
        """The start of the next process, while it lasts."""
        return self._restart if self._restart is not None and not self._restart.done() else None

    async def start(self) -> None:
        """Start the process. ModelError when it cannot read the model."""
        async with self._turn:
            await self._start()

    async def _replace(self) -> None:
        """Kill the process and have the next one ready before the next source comes."""
        await self._kill()
        self._restart = asyncio.create_task(self._start_again())

    async def _start_again(self) -> None:
        async with self._turn:
            if self._process is None:
                with suppress(ModelError):  # the next source tries again, and its sender is told
                    await self._start()

    async def _start(self) -> None:
        self._process = await _Child.start()
        try:
            header, _ = await self._exchange(frames.pack(self._setup), _START_LIMIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await self._kill()
            raise ModelError("the grammar compiler does not start; its standard error says why") from None
        except asyncio.CancelledError:
            await self._kill()
            raise
        self.format = header["format"]

    async def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form of a source.

        Raises:
            InvalidRequestError: The source is wrong, or takes more time or memory than is allowed.
            UnavailableError: The process is down and does not start.
        """
        async with self._turn:
            if self._process is not None and self._process.is_dead:
                logger.warning("the grammar compiler died between two sources")
                await self._kill()
            if self._process is None:
                try:
                    await self._start()
                except ModelError as error:
                    raise UnavailableError(str(error)) from None
            try:
                header, body = await self._exchange(frames.pack({"kind": int(kind)}, text.encode()), self._limit_s)
            except TimeoutError:
                await self._replace()
                raise InvalidRequestError(f"takes longer than {self._limit_s:g} s to compile; simplify it") from None
            except (asyncio.IncompleteReadError, ConnectionError):
                logger.warning("the grammar compiler died over a %s of %d characters", kind.name, len(text))
                await self._replace()
                raise InvalidRequestError("cannot be compiled: the compiler gave up on it; simplify it") from None
            except asyncio.CancelledError:
                await self._replace()  # its answer would be taken for that of the next source
                raise
        if "error" in header:
            raise InvalidRequestError(header["error"])
        return body

    async def _exchange(self, frame: bytes, limit_s: float) -> tuple[dict[str, Any], bytes]:
        assert self._process is not None
        async with asyncio.timeout(limit_s):
            self._process.writer.write(frame)
            await self._process.writer.drain()
            return await frames.read_async(self._process.reader)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            await process.kill()

    async def stop(self) -> None:
        """End the process."""
        if self._restart is not None:
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart
        await self._kill()


def _spawn(connection: int) -> subprocess.Popen[bytes]:
    # Not by asyncio: uvloop forks, and then gRPC's handlers run in the child and crash it now and then, where calls are
    # under way. Here nothing of ours runs between the two programs.
    return subprocess.Popen([sys.executable, "-P", "-m", "bough.grammar.worker"], stdin=connection, stdout=connection)
