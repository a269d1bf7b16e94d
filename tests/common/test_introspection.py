"""One answer holds the metrics of a process and of the live ones behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from bough.common.rpc.channel import open_channel
from bough.common.rpc.introspection import IntrospectionServicer, Peers, peer_metrics
from bough.common.rpc.server import RpcServer
from bough.common.telemetry import Telemetry
from bough.rpc.v1 import telemetry_pb2 as pb
from bough.rpc.v1 import telemetry_pb2_grpc


class _Stuck(telemetry_pb2_grpc.IntrospectionServiceServicer):
    """A peer that never answers."""

    async def Metrics(
        self, request: pb.MetricsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.MetricsResponse:
        await asyncio.Event().wait()
        raise AssertionError


async def _serve(address: str, servicer: telemetry_pb2_grpc.IntrospectionServiceServicer) -> RpcServer:
    server = RpcServer(address)
    telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(servicer, server.server)
    await server.start()
    return server


@pytest.fixture
async def addresses(tmp_path: Path) -> AsyncIterator[dict[str, str]]:
    """front asks middle, a dead one and a stuck one; middle asks back."""
    found = {name: f"unix:{tmp_path}/{name}.sock" for name in ("front", "middle", "back", "stuck", "dead")}
    channels = {name: open_channel(address) for name, address in found.items()}
    telemetries = [Telemetry(name) for name in ("front", "middle", "back")]

    def behind(*names: str) -> Peers:
        return lambda: {name: channels[name] for name in names}

    servicers = [
        IntrospectionServicer(telemetries[0], behind("middle", "dead", "stuck"), timeout_s=0.5),
        IntrospectionServicer(telemetries[1], behind("back")),
        IntrospectionServicer(telemetries[2]),
        _Stuck(),
    ]
    servers = [await _serve(found[name], s) for name, s in zip(found, servicers, strict=False)]
    yield found
    for channel in channels.values():
        await channel.close()
    for server in servers:
        await server.stop(0)
    for telemetry in telemetries:
        telemetry.close()


async def test_live_peers_are_shown_in_order_and_dead_ones_left_out(addresses: dict[str, str]) -> None:
    async with open_channel(addresses["front"]) as channel:
        processes = await peer_metrics({"front": channel}, timeout_s=10)
    assert [process.service for process in processes] == ["front", "middle", "back"]
    assert all(b"python_info" in process.exposition for process in processes)
    assert all(":" in process.instance for process in processes)


async def test_a_stuck_peer_does_not_hide_those_before_it_from_a_hurried_caller(addresses: dict[str, str]) -> None:
    async with open_channel(addresses["front"]) as channel:
        processes = await peer_metrics({"front": channel}, timeout_s=0.4)
    assert [process.service for process in processes][:1] == ["front"]
