"""Servers: health, reflection, and errors as statuses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from bough.common.errors import BoughError, InvalidRequestError, MismatchError, OverloadedError, UnavailableError
from bough.common.rpc.channel import RetryPolicy, call, from_rpc_error, open_channel
from bough.common.rpc.server import READY_SERVICE, RpcServer
from bough.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc
from tests.common.echo import NAME, EchoServicer, Request, serving

HURRY = RetryPolicy(attempts=3, attempt_timeout_s=5, initial_backoff_s=0.001)


def raising(error: Exception) -> Callable[[], Awaitable[None]]:
    async def handler() -> None:
        raise error

    return handler


async def describe(address: str, policy: RetryPolicy = HURRY) -> scheduler_pb2.SchedulerDescribeResponse:
    async with open_channel(address) as channel:
        stub = scheduler_pb2_grpc.SchedulerServiceStub(channel)
        return await call(stub.Describe, scheduler_pb2.SchedulerDescribeRequest(), peer="echo", policy=policy)


async def test_health_tells_life_from_readiness(tmp_path: Path) -> None:
    async with serving(EchoServicer(), tmp_path) as (server, address), open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def status(name: str) -> int:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
            return int(answer.status)

        serving_, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
        assert (await status(""), await status(READY_SERVICE)) == (serving_, not_serving)
        await server.set_ready(True)
        assert await status(READY_SERVICE) == serving_
        await server.set_ready(False)
        assert (await status(""), await status(READY_SERVICE)) == (serving_, not_serving)


async def test_reflection_names_the_services(tmp_path: Path) -> None:
    async with serving(EchoServicer(), tmp_path) as (_, address), open_channel(address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asking = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        answer = await anext(aiter(asking))
        names = {service.name for service in answer.list_services_response.service}
        asking.cancel()
    assert {NAME, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"} <= names


@pytest.mark.parametrize("error", [InvalidRequestError("x=5: 1..3"), MismatchError("here, there")])
async def test_a_domain_error_crosses_the_wire(tmp_path: Path, error: BoughError) -> None:
    async with serving(EchoServicer(describe=raising(error)), tmp_path) as (_, address):
        with pytest.raises(type(error)) as caught:
            await describe(address)
    assert str(caught.value) == str(error)


async def test_an_overload_says_when_to_come_back(tmp_path: Path) -> None:
    error = OverloadedError("full", retry_after_s=2.5)
    async with serving(EchoServicer(describe=raising(error)), tmp_path) as (_, address):
        with pytest.raises(OverloadedError) as caught:
            await describe(address)
    assert caught.value.retry_after_s == 2.5


async def test_a_fault_of_ours_is_internal_and_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(EchoServicer(describe=raising(KeyError("lost"))), tmp_path) as (_, address):
        with pytest.raises(BoughError, match="KeyError: 'lost'"):
            await describe(address)
    assert "a handler failed" in caplog.text


async def test_an_error_in_a_stream_ends_it_with_its_status(tmp_path: Path) -> None:
    servicer = EchoServicer()
    servicer.refusal = OverloadedError("too many", retry_after_s=3)
    async with serving(servicer, tmp_path) as (_, address), open_channel(address) as channel:
        stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Stream()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
    error = from_rpc_error(caught.value, peer="echo")
    assert isinstance(error, OverloadedError)
    assert error.retry_after_s == 3


async def test_unavailable_is_tried_again_and_other_errors_are_not(tmp_path: Path) -> None:
    tries = 0

    async def flaky() -> None:
        nonlocal tries
        tries += 1
        if tries < 3:
            raise UnavailableError("not yet")

    async with serving(EchoServicer(describe=flaky), tmp_path) as (_, address):
        assert (await describe(address)).epoch == 7
    assert tries == 3

    async def wrong() -> None:
        nonlocal tries
        tries += 1
        raise InvalidRequestError("no")

    other = tmp_path / "other"
    other.mkdir()
    async with serving(EchoServicer(describe=wrong), other) as (_, address):
        with pytest.raises(InvalidRequestError):
            await describe(address)
    assert tries == 4


async def test_a_peer_that_is_not_there_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="echo is not available"):
        await describe(f"unix:{tmp_path / 'nobody.sock'}")


async def test_a_peer_that_does_not_answer_in_time_is_unavailable(tmp_path: Path) -> None:
    never = asyncio.Event()

    async def stuck() -> None:
        await never.wait()

    async with serving(EchoServicer(describe=stuck), tmp_path) as (_, address):
        with pytest.raises(UnavailableError, match="did not answer in time"):
            await describe(address, RetryPolicy(attempts=1, attempt_timeout_s=0.05))


async def test_a_port_in_use_is_an_error_and_not_shared() -> None:
    first = RpcServer("127.0.0.1:0")
    await first.start()
    second = RpcServer(f"127.0.0.1:{first.port}")
    with pytest.raises(RuntimeError):
        await second.start()
    await first.stop(0)
    await second.stop(0)


async def test_a_message_over_the_limit_is_refused_and_the_server_lives_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = [("grpc.max_receive_message_length", 1000)]
    monkeypatch.setattr("bough.common.rpc.server.SERVER_OPTIONS", limit)
    async with serving(EchoServicer(), tmp_path) as (_, address), open_channel(address) as channel:
        stream = scheduler_pb2_grpc.SchedulerServiceStub(channel).Stream()
        await stream.write(Request(seq=1, cancels=range(1, 1000)))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stream.read()
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await describe(address)).epoch == 7


@pytest.mark.parametrize("error", [UnavailableError("planted"), None])
async def test_a_stream_whose_first_write_is_cancelled_still_ends_with_its_status(
    tmp_path: Path, error: Exception | None
) -> None:
    async def run(requests: object, context: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        writing = asyncio.create_task(context.write(b"first"))
        for _ in range(3):  # so that it has begun, and not ended
            await asyncio.sleep(0)
        writing.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await writing
        if error is not None:
            raise error

    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.stream_stream_rpc_method_handler(run)
    server = RpcServer(f"unix:{tmp_path}/test.sock")
    server.server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bough.Test", {"Run": handler}),))
    await server.start()
    async with open_channel(server.address) as channel:
        stream: grpc.aio.StreamStreamCall[bytes, bytes] = channel.stream_stream("/bough.Test/Run")()
        with contextlib.suppress(grpc.aio.AioRpcError):
            await stream.write(b"")  # the server may have ended before
            while await asyncio.wait_for(stream.read(), 10) is not grpc.aio.EOF:
                pass
        assert await stream.code() is (grpc.StatusCode.OK if error is None else grpc.StatusCode.UNAVAILABLE)
    await server.stop(0)
