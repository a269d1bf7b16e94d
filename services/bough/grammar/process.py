"""One compiler, seen from the service: forked again when it dies, killed when it takes too long."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from bough.common.errors import InvalidRequestError, ModelError, UnavailableError
from bough.common.sampling import GrammarKind
from bough.grammar import frames
from bough.grammar.nursery import Child, Nursery

logger = logging.getLogger(__name__)

COMPILE_LIMIT_S = 10.0
"""Processor time of one source. On the clock it may be twice that: others come first where the cores are busy."""
TRY_S = 0.1
"""Processor time after which a source is one of those that take long; ordinary ones take a fifth of it."""
_LEAST_LOOK_S = 0.01

Answer = tuple[dict[str, Any], bytes]


class TakesLongError(Exception):
    """The source was given up after `TRY_S`, and may be compiled again where there is time for it."""


class CompilerProcess:
    """Compiles one source at a time.

    Args:
        nursery: Forks it.
        limit_s: Processor time that a source may take.
    """

    def __init__(self, nursery: Nursery, *, limit_s: float = COMPILE_LIMIT_S) -> None:
        self._nursery = nursery
        self._limit_s = limit_s
        self._child: Child | None = None
        self._turn = asyncio.Lock()
        self._restart: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the process; None while there is none."""
        return None if self._child is None else self._child.pid

    @property
    def restarting(self) -> asyncio.Task[None] | None:
        """The start of the next process, while it lasts."""
        return self._restart if self._restart is not None and not self._restart.done() else None

    def start(self) -> None:
        """Have the process ready before the first source comes."""
        if self.restarting is None:  # one that has not come to its turn yet does
            self._restart = asyncio.create_task(self._start_again())

    async def _replace(self) -> None:
        """Kill the process and have the next one ready before the next source comes."""
        await self._kill()
        self.start()

    async def _start_again(self) -> None:
        async with self._turn:
            if self._child is None:
                with suppress(ModelError):  # the next source tries again, and its sender is told
                    self._child = await self._nursery.fork()

    async def compile(self, kind: GrammarKind, text: str, may_take_long: Callable[[], bool] = lambda: True) -> bytes:
        """The compiled form of a source.

        Args:
            kind: What the source is.
            text: The source.
            may_take_long: Asked once `TRY_S` are over; where it says no, the source is given up.

        Raises:
            InvalidRequestError: The source is wrong, or takes more time or memory than is allowed.
            TakesLongError: It was given up.
            UnavailableError: The process is down and does not start.
        """
        async with self._turn:
            await self._come_up()
            assert self._child is not None
            is_worn = False

            def may_go_on() -> bool:
                nonlocal is_worn
                if not may_take_long():
                    return False
                assert self._child is not None
                self._child.give_way()
                is_worn = True
                return True

            try:
                header, body = await self._exchange(
                    self._child, frames.pack({"kind": int(kind)}, text.encode()), may_go_on
                )
            except TimeoutError:
                await self._replace()
                raise InvalidRequestError(f"takes longer than {self._limit_s:g} s to compile; simplify it") from None
            except (asyncio.IncompleteReadError, ConnectionError):
                logger.warning("the grammar compiler died over a %s of %d characters", kind.name, len(text))
                await self._replace()
                raise InvalidRequestError("cannot be compiled: the compiler gave up on it; simplify it") from None
            except (TakesLongError, asyncio.CancelledError):
                await self._replace()  # its answer would be taken for that of the next source
                raise
            if is_worn:
                await self._replace()  # what gives way to all others cannot be made to come first again
        if "error" in header:
            raise InvalidRequestError(header["error"])
        return body

    async def _come_up(self) -> None:
        if self._child is not None and self._child.is_dead:
            logger.warning("the grammar compiler died between two sources")
            await self._kill()
        if self._child is None:
            try:
                self._child = await self._nursery.fork()
            except ModelError as error:
                raise UnavailableError(str(error)) from None

    async def _exchange(self, child: Child, frame: bytes, may_go_on: Callable[[], bool]) -> Answer:
        """Send a source and wait for the answer, TimeoutError when it takes too long."""
        began_s, before_s = time.monotonic(), child.used_s()
        answer = asyncio.create_task(_ask(child, frame))
        is_tried = False
        next_s = min(TRY_S, self._limit_s)
        try:
            while True:
                await asyncio.wait([answer], timeout=max(next_s, _LEAST_LOOK_S))
                if answer.done():
                    return answer.result()
                clock_s, now_s = time.monotonic() - began_s, child.used_s()
                used_s = clock_s if now_s is None or before_s is None else now_s - before_s
                if used_s >= self._limit_s or clock_s >= 2 * self._limit_s:
                    raise TimeoutError
                if not is_tried and used_s >= TRY_S:
                    if not may_go_on():
                        raise TakesLongError
                    is_tried = True
                next_s = min((self._limit_s if is_tried else TRY_S) - used_s, 2 * self._limit_s - clock_s)
        finally:
            answer.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await answer

    async def _kill(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            await self._nursery.kill(child)

    async def stop(self) -> None:
        """End the process."""
        if self._restart is not None:
            self._restart.cancel()
            with suppress(asyncio.CancelledError):
                await self._restart
        await self._kill()


async def _ask(child: Child, frame: bytes) -> Answer:
    child.writer.write(frame)
    await child.writer.drain()
    return await frames.read_async(child.reader)
