"""The health probe against a real server."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import pytest

from bough.cli import health
from bough.common.rpc.server import READY_SERVICE, RpcServer


def test_the_name_of_readiness_is_that_of_the_servers() -> None:
    assert health.READY_SERVICE == READY_SERVICE


async def test_alive_and_ready_are_told_apart(tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 's.sock'}"
    server = RpcServer(address)
    await server.start()
    try:
        assert await asyncio.to_thread(health.run, [address]) == 0
        assert await asyncio.to_thread(health.run, [address, "--ready"]) == 1
        await server.set_ready(True)
        assert await asyncio.to_thread(health.run, [address, "--ready"]) == 0
    finally:
        await server.stop(0)


def test_nobody_at_the_address_is_said_and_is_a_failure(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    address = f"unix:{tmp_path / 'none.sock'}"
    assert health.run([address, "--timeout-s", "0.1"]) == 1
    assert capsys.readouterr().err.strip() == f"no answer from {address} within 0.1 s: no such file or directory"
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        assert health.run([f"127.0.0.1:{closed.getsockname()[1]}", "--timeout-s", "0.1"]) == 1
    assert "connection refused" in capsys.readouterr().err


async def test_a_folder_of_sockets_is_answered_line_by_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert await asyncio.to_thread(health.run, [str(tmp_path)]) == 1
    assert "no service has a socket" in capsys.readouterr().err
    servers = [RpcServer(f"unix:{tmp_path}/gateway-{copy}.sock") for copy in (1, 2)]
    for server in servers:
        await server.start()
    try:
        assert await asyncio.to_thread(health.run, [str(tmp_path)]) == 0
        assert capsys.readouterr().out.split() == ["gateway-1", "SERVING", "gateway-2", "SERVING"]
        await servers[0].set_ready(True)
        assert await asyncio.to_thread(health.run, [str(tmp_path), "--ready"]) == 1
        told = capsys.readouterr()
        assert (told.out.split(), told.err.split()) == (["gateway-1", "SERVING"], ["gateway-2", "NOT_SERVING"])
    finally:
        for server in servers:
            await server.stop(0)
