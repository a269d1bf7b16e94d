"""Gateways that accept from one socket get about as many connections each."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from bough.gateway.acceptor import Acceptor, LoadBoard


class Gateway:
    """Takes connections and keeps them."""

    def __init__(self, listener: socket.socket, path: Path, slot: int, num_slots: int = 2) -> None:
        self.taken: list[socket.socket] = []
        self.board = LoadBoard(path, slot, num_slots)
        self.acceptor = Acceptor(listener.dup(), self.board, self.taken.append)

    def close(self) -> None:
        for connection in self.taken:
            connection.close()
        self.acceptor.close()
        self.board.close()


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0), backlog=256) as sock:
        sock.setblocking(False)
        yield sock


async def connect(listener: socket.socket, stack: ExitStack, count: int) -> None:
    for _ in range(count):
        stack.enter_context(socket.create_connection(listener.getsockname()))


async def until(gateways: list[Gateway], count: int) -> None:
    async with asyncio.timeout(10):
        while sum(len(gateway.taken) for gateway in gateways) < count:  # noqa: ASYNC110  # sockets tell nobody
            await asyncio.sleep(0.001)


async def test_a_burst_is_shared_evenly(listener: socket.socket, tmp_path: Path) -> None:
    gateways = [Gateway(listener, tmp_path / "load", slot, 3) for slot in range(3)]
    with ExitStack() as stack:
        await connect(listener, stack, 60)
        await until(gateways, 60)
        assert all(18 <= len(gateway.taken) <= 22 for gateway in gateways)
        for gateway in gateways:
            gateway.close()


@pytest.mark.parametrize("first", [0, 1])
async def test_whoever_has_fewer_gets_the_next_ones(listener: socket.socket, tmp_path: Path, first: int) -> None:
    gateways = [Gateway(listener, tmp_path / "load", slot) for slot in range(2)]
    busy, idle = gateways[first], gateways[1 - first]
    busy.board.add(10)
    with ExitStack() as stack:
        for count in range(1, 9):
            await connect(listener, stack, 1)
            await until([busy, idle], count)
        assert (len(busy.taken), len(idle.taken)) == (0, 8)
        busy.close()
        idle.close()


async def test_one_that_takes_none_delays_the_others_but_stops_nothing(listener: socket.socket, tmp_path: Path) -> None:
    alive = Gateway(listener, tmp_path / "load", 0)
    LoadBoard(tmp_path / "load", 1, 2)  # a process that is stuck: no connections, and it accepts none
    with ExitStack() as stack:
        await connect(listener, stack, 20)
        await until([alive], 20)
        alive.close()


def test_a_gateway_that_starts_again_begins_with_none(tmp_path: Path) -> None:
    first, second = (LoadBoard(tmp_path / "load", slot, 2) for slot in range(2))
    first.add(7)
    second.add(5)
    assert (first.ahead, second.ahead) == (True, False)
    again = LoadBoard(tmp_path / "load", 0, 2)
    assert again.mine == 0
    assert second.ahead
