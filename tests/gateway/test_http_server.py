"""Bodies written straight to a connection arrive whole and in order, however slowly the client reads."""

from __future__ import annotations

import asyncio
import socket

from uvicorn.protocols.http.flow_control import FlowControl

from bough.gateway.http_server import BodyWriter


class _Connection(asyncio.Protocol):
    """The server's side of a connection."""

    flow: FlowControl

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.flow = FlowControl(transport)

    def pause_writing(self) -> None:
        self.flow.pause_writing()

    def resume_writing(self) -> None:
        self.flow.resume_writing()


async def _connect() -> tuple[asyncio.Transport, BodyWriter, asyncio.StreamReader, asyncio.StreamWriter]:
    ours, theirs = socket.socketpair()
    transport, protocol = await asyncio.get_running_loop().create_connection(_Connection, sock=ours)
    reader, writer = await asyncio.open_connection(sock=theirs, limit=1 << 20)
    return transport, BodyWriter(transport, protocol.flow), reader, writer


async def test_what_a_slow_client_has_not_read_waits_and_nothing_overtakes_it() -> None:
    transport, body, reader, peer = await _connect()
    pieces = [b"%d " % i * size for i, size in enumerate([3000, 100, 150_000, 1] * 20)]
    num_pauses = 0

    async def write() -> None:
        nonlocal num_pauses
        for piece in pieces:
            if (pause := body.write(piece)) is not None:
                num_pauses += 1
                await pause
        transport.write(b"0\r\n\r\n")

    writing = asyncio.create_task(write())
    await asyncio.sleep(0.05)
    assert not writing.done(), "nobody reads, so the writer must be told to wait"
    got = []
    while size := int(await reader.readline(), 16):
        got.append((await reader.readexactly(size + 2))[:-2])
    await writing
    assert got == pieces
    assert num_pauses > 0
    transport.close()
    peer.close()


async def test_writing_to_a_connection_that_is_gone_does_nothing() -> None:
    transport, body, _, peer = await _connect()
    peer.transport.abort()
    await asyncio.sleep(0.01)
    assert body.write(b"x") is None
    transport.abort()
    assert body.write(b"x") is None
