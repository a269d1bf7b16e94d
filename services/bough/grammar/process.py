"""The compiler process, seen from the service: started again when it dies, killed when it takes too long."""

from __future__ import annotations

import asyncio
import logging
import sys
from asyncio.subprocess import PIPE, Process
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
        self._process: Process | None = None
        self._turn = asyncio.Lock()
        self._restart: asyncio.Task[None] | None = None
        self.format = ""
        """Of the compiled form; known once started."""

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
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "bough.grammar.worker", stdin=PIPE, stdout=PIPE
        )
        try:
            header, _ = await self._exchange(frames.pack(self._setup), _START_LIMIT_S)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError):
            await self._kill()
            raise ModelError("the grammar compiler does not start; its standard error says why") from None
        self.format = header["format"]

    async def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form of a source.

        Raises:
            InvalidRequestError: The source is wrong, or takes more time or memory than is allowed.
            UnavailableError: The process is down and does not start.
        """
        async with self._turn:
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
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        async with asyncio.timeout(limit_s):
            process.stdin.write(frame)
            await process.stdin.drain()
            return await frames.read_async(process.stdout)

    async def _kill(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            # communicate, not wait: it also closes the pipes.
            await process.communicate()

    async def stop(self) -> None:
        """End the process."""
        if self._restart is not None:
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart
        await self._kill()
