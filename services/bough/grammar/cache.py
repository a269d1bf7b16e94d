"""A cache of compiled grammars, bounded in bytes; equal requests at the same time are made once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable


class SingleFlightCache:
    """Least recently used values go first.

    Args:
        max_bytes: Bound of all values together; a larger single value is handed out and not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._values: OrderedDict[bytes, bytes] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[bytes]] = {}
        self.size_bytes = 0

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, which counts as a use; None when it is not there."""
        value = self._values.get(key)
        if value is not None:
            self._values.move_to_end(key)
        return value

    def is_under_way(self, key: bytes) -> bool:
        """Whether the value of a key is being made."""
        return key in self._flights

    async def get_or_make(self, key: bytes, make: Callable[[], Awaitable[bytes]]) -> bytes:
        """The value of a key, made if it is not there.

        One caller that gives up does not take the others' value away. What `make` raises reaches all who wait, and is
        not kept: the next caller tries again.
        """
        value = self.get(key)
        if value is not None:
            return value
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.create_task(self._make(key, make))
            flight.add_done_callback(_note_result)
        return await asyncio.shield(flight)

    async def _make(self, key: bytes, make: Callable[[], Awaitable[bytes]]) -> bytes:
        try:
            value = await make()
        finally:
            del self._flights[key]
        if len(value) <= self._max_bytes:
            self._values[key] = value
            self.size_bytes += len(value)
            while self.size_bytes > self._max_bytes:
                _, evicted = self._values.popitem(last=False)
                self.size_bytes -= len(evicted)
        return value

    def close(self) -> None:
        """Give up what is being made."""
        for flight in self._flights.values():
            flight.cancel()


def _note_result(flight: asyncio.Task[bytes]) -> None:
    if not flight.cancelled():
        flight.exception()  # all who waited may have gone away; asyncio would log that nobody looked
