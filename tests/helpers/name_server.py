"""A name server for one name, whose addresses change when a test says so."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import cast

_TYPE_A = 1
_HEADER_BYTES = 12


class NameServer(asyncio.DatagramProtocol):
    """Answers every question for IPv4 addresses with `addresses`, whatever the name, and others with nothing."""

    def __init__(self, addresses: Sequence[str]) -> None:
        self.addresses = addresses
        self.num_lookups = 0
        self._looked_up = asyncio.Event()
        self._transport: asyncio.DatagramTransport | None = None

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        assert self._transport is not None
        return int(self._transport.get_extra_info("sockname")[1])

    async def looked_up(self, times: int) -> None:
        """Wait until addresses were asked for so often."""
        while self.num_lookups < times:
            self._looked_up.clear()
            await self._looked_up.wait()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Listening."""
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Answer a question (RFC 1035)."""
        end = _HEADER_BYTES
        while data[end]:
            end += data[end] + 1
        question = data[_HEADER_BYTES : end + 5]
        (wanted,) = struct.unpack(">H", question[-4:-2])
        self.num_lookups += wanted == _TYPE_A
        self._looked_up.set()
        # A pointer to the name in the question, type A, class IN, and nothing that may be kept.
        answers = [
            b"\xc0\x0c" + struct.pack(">HHIH", _TYPE_A, 1, 0, 4) + socket.inet_aton(address)
            for address in self.addresses
            if wanted == _TYPE_A
        ]
        header = data[:2] + struct.pack(">HHHHH", 0x8580, 1, len(answers), 0, 0)
        assert self._transport is not None
        self._transport.sendto(header + question + b"".join(answers), addr)


@asynccontextmanager
async def name_server(*addresses: str) -> AsyncIterator[NameServer]:
    """A name server on a free port."""
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(addresses), ("127.0.0.1", 0))
    try:
        yield server
    finally:
        transport.close()
