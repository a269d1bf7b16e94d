"""The text of a state: what it is now, and for those who follow it, everything as it came."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable


class Signal:
    """Wakes all who wait, as often as it is fired. Used within one event loop."""

    __slots__ = ("_waiters",)

    def __init__(self) -> None:
        self._waiters: list[asyncio.Future[None]] = []

    def fire(self) -> None:
        """Wake all who wait now."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    async def wait(self) -> None:
        """Until it is fired the next time."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter


class Transcript:
    """Text that grows at its end and may be cut off there."""

    __slots__ = ("_changed", "_log", "_parts", "length")

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._log: list[tuple[str, object]] = []
        self._changed = Signal()
        self.length = 0

    def add(self, text: str, source: object = None) -> None:
        """Add text; `source` is what followers can tell it by."""
        if text:
            self._parts.append(text)
            self._log.append((text, source))
            self.length += len(text)
            self._changed.fire()

    def text(self, begin: int = 0) -> str:
        """The text from a position on."""
        whole = "".join(self._parts)
        self._parts = [whole]
        return whole[begin:]

    def cut(self, length: int) -> None:
        """Keep the first characters only. Who follows has seen the others."""
        self._parts = [self.text()[:length]]
        self.length = length

    def wake(self) -> None:
        """Have those who follow look whether it is the end."""
        self._changed.fire()

    async def follow(self, is_end: Callable[[], bool], wants: Callable[[object], bool]) -> AsyncGenerator[str, None]:
        """Texts in their order, from the first one on, until `is_end`.

        Args:
            is_end: Asked whenever everything has been told that there is.
            wants: Whether texts of a source are told.
        """
        told = 0
        while True:
            while told < len(self._log):
                text, source = self._log[told]
                told += 1
                if wants(source):
                    yield text
            if is_end():
                return
            await self._changed.wait()
