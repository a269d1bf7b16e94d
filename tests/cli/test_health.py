"""The health probe against a real server."""

from __future__ import annotations

import asyncio
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
    assert health.run([f"unix:{tmp_path / 'none.sock'}", "--timeout-s", "0.1"]) == 1
    assert capsys.readouterr().err.strip()
