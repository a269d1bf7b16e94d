"""The way out of a session: answers of many calls, written one after the other."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from bough.gateway.programs.actions import Answer

MAX_AHEAD = 64
"""Answers that wait for the transport before who produces more has to wait too."""


class Outlet:
    """Writes answers in the order in which they are sent.

    A write that is begun must come to its end before the next one, also where who sent it is cancelled meanwhile. So
    one task writes for all, and each sender waits for its own message: a client that reads slowly has few messages
    under way, and what a generation produces meanwhile gathers in one piece.

    Args:
        write: Hands an answer to the transport; returns once flow control let it pass.
    """

    def __init__(self, write: Callable[[int, Answer], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: deque[tuple[int, Answer, asyncio.Future[None]]] = deque()
        self._wakeup = asyncio.Event()

    def put(self, call: int, answer: Answer) -> asyncio.Future[None]:
        """Have an answer to a call written; what is returned is done once the transport has it."""
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((call, answer, written))
        self._wakeup.set()
        return written

    def offer(self, call: int, answer: Answer) -> Awaitable[None] | None:
        """As `put`, for who need not wait unless the client is behind: then what is returned is to be waited for."""
        written = self.put(call, answer)
        return written if len(self._waiting) > MAX_AHEAD else None

    async def send(self, call: int, answer: Answer) -> None:
        """Write an answer to a call; returns once the transport has it."""
        await self.put(call, answer)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._waiting:
                call, answer, written = self._waiting.popleft()
                await self._write(call, answer)
                if not written.done():
                    written.set_result(None)
