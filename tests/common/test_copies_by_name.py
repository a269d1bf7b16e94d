"""A service's name stands for all of its copies, also for those that came after its callers."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib import import_module
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.config import Settings
from bough.common.rpc import endpoints
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import RpcServer
from bough.demo import model_dir
from bough.rpc.v1 import telemetry_pb2 as pb
from bough.rpc.v1 import telemetry_pb2_grpc
from tests.helpers.name_server import name_server

FIRST, SECOND = "127.0.0.1", "127.0.0.2"


class _Copy(telemetry_pb2_grpc.IntrospectionServiceServicer):
    def __init__(self) -> None:
        self.num_calls = 0

    async def Metrics(
        self, request: pb.MetricsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.MetricsResponse:
        self.num_calls += 1
        return pb.MetricsResponse()


@asynccontextmanager
async def _serving(address: str, copy: _Copy) -> AsyncIterator[int]:
    server = RpcServer(address, connection_age_s=0.1)
    telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(copy, server.server)
    await server.start()
    try:
        yield server.port
    finally:
        await server.stop(0)


async def test_a_copy_that_came_later_gets_calls_of_a_channel_that_was_open_and_no_call_fails() -> None:
    first, second = _Copy(), _Copy()
    async with AsyncExitStack() as stack:
        names = await stack.enter_async_context(name_server(FIRST))
        port = await stack.enter_async_context(_serving(f"{FIRST}:0", first))
        channel = await stack.enter_async_context(open_channel(f"dns://127.0.0.1:{names.port}/tokenizer.test:{port}"))
        stub = telemetry_pb2_grpc.IntrospectionServiceStub(channel)
        await stub.Metrics(pb.MetricsRequest(), timeout=10)
        await stack.enter_async_context(_serving(f"{SECOND}:{port}", second))
        names.addresses = (FIRST, SECOND)
        async with asyncio.timeout(30):
            while second.num_calls < 10:
                await stub.Metrics(pb.MetricsRequest(), timeout=10)
        before = first.num_calls
        await asyncio.gather(*(stub.Metrics(pb.MetricsRequest(), timeout=10) for _ in range(10)))
        assert first.num_calls > before


@pytest.mark.parametrize("name", ["tokenizer", "grammar"])
async def test_a_service_whose_calls_are_spread_has_its_name_looked_up_again(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = import_module(f"bough.{name}.service")
    monkeypatch.setattr(module, "CONNECTION_AGE_S", 0.1)
    with socket.create_server((FIRST, 0)) as free:
        port = free.getsockname()[1]
    service = module.create(Settings(model=model_dir(), listen=f"{FIRST}:{port}", grammar_cache_dir="off"))
    async with AsyncExitStack() as stack:
        stack.push_async_callback(service.stop)
        await service.start()
        names = await stack.enter_async_context(name_server(FIRST))
        channel = await stack.enter_async_context(open_channel(f"dns://127.0.0.1:{names.port}/{name}.test:{port}"))
        await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        async with asyncio.timeout(30):
            await names.looked_up(2)


async def test_a_name_that_nobody_can_look_up_just_now_keeps_its_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    failure: list[int] = []
    told: asyncio.Queue[frozenset[str]] = asyncio.Queue()
    asked = asyncio.Event()

    async def getaddrinfo(*_: object, **__: object) -> list[tuple[object, ...]]:
        asked.set()
        if failure:
            raise socket.gaierror(failure[0], "no answer")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (FIRST, 50051))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    watching = asyncio.create_task(endpoints.watch("dns:///executor:50051", told.put_nowait, interval_s=0.001))
    assert await told.get() == {f"{FIRST}:50051"}
    failure.append(socket.EAI_AGAIN)
    for _ in range(3):
        asked.clear()
        await asked.wait()
    assert told.empty()
    # Said by a name server that answers.
    failure[0] = socket.EAI_NONAME
    assert await told.get() == frozenset()
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
