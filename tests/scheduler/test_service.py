"""The scheduler as a process: real gRPC over Unix sockets, against a fake executor."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc
import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.config import Policy, Settings
from bough.common.rpc.channel import open_channel
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.server import READY_SERVICE, RpcServer
from bough.common.sampling import FinishReason
from bough.common.telemetry import Telemetry
from bough.rpc.v1 import common_pb2, scheduler_pb2, telemetry_pb2, telemetry_pb2_grpc
from bough.scheduler.failures import Code
from bough.scheduler.service import SchedulerService
from tests.scheduler.client import Client
from tests.scheduler.fake_executor import FakeExecutor, submit_message
from tests.scheduler.simulated import IDENTITY, PROGRAM, token_at

NUM_STREAMS = 12


def settings(tmp_path: Path, **changes: object) -> Settings:
    return Settings.model_validate({"run_dir": tmp_path, "policy": Policy.FCFS, "orphan_grace_s": 5.0} | changes)


def address(tmp_path: Path, service: str) -> str:
    return f"unix:{tmp_path / service}.sock"


@pytest_asyncio.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[SchedulerService]:
    service = SchedulerService(settings(tmp_path))
    await service.start()
    yield service
    await service.stop()


@pytest_asyncio.fixture
async def client(tmp_path: Path, scheduler: SchedulerService) -> AsyncIterator[Client]:
    client = Client(address(tmp_path, "scheduler")).open()
    yield client
    await client.close()


@pytest_asyncio.fixture
async def executor(tmp_path: Path) -> AsyncIterator[FakeExecutor]:
    executor = await FakeExecutor(address(tmp_path, "executor")).start()
    yield executor
    await executor.kill()


def prompt_of(request: int) -> tuple[int, ...]:
    return (1, 2, request)


def undisturbed(request: int, num_tokens: int) -> list[int]:
    return [token_at(prompt_of(request), 7, position) for position in range(num_tokens)]


def submit_many(client: Client, num_tokens: int) -> list[int]:
    requests = list(range(1, NUM_STREAMS + 1))
    client.submit(*(submit_message(r, prompt=prompt_of(r), max_tokens=num_tokens) for r in requests))
    return requests


async def wait_ready(tmp_path: Path, ready: bool) -> None:
    async with open_channel(address(tmp_path, "scheduler")) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=READY_SERVICE))
        async for answer in watch:
            if (answer.status == health_pb2.HealthCheckResponse.SERVING) is ready:
                watch.cancel()
                return


async def test_tokens_travel_from_the_executor_to_the_consumer(client: Client, executor: FakeExecutor) -> None:
    requests = submit_many(client, 20)
    await client.ended(*requests)
    assert client.inbox.tokens == {r: undisturbed(r, 20) for r in requests}
    assert set(client.inbox.finish.values()) == {FinishReason.LENGTH}
    assert len(client.inbox.started) == NUM_STREAMS


async def test_streams_finish_unchanged_when_the_executor_restarts_in_mid_generation(
    tmp_path: Path, scheduler: SchedulerService, client: Client
) -> None:
    first = await FakeExecutor(address(tmp_path, "executor"), epoch=1, permits=6).start()
    requests = submit_many(client, 20)
    await first.until(steps=6)
    await first.kill()
    second = await FakeExecutor(address(tmp_path, "executor"), epoch=2).start()
    await client.ended(*requests)
    assert client.inbox.tokens == {r: undisturbed(r, 20) for r in requests}
    assert any(admit.produced for admit in second.process.admitted)
    assert [(a.executor_epoch, len(a.resumes) > 0) for a in second.attaches[-1:]] == [(1, True)]
    await second.kill()


async def test_streams_finish_unchanged_when_only_the_executors_stream_breaks(
    client: Client, executor: FakeExecutor
) -> None:
    executor.allow(4)
    requests = submit_many(client, 12)
    for streams in (1, 2):
        await executor.until(4 * streams, streams=streams)
        executor.break_stream()
        executor.allow(4)
    await executor.until(streams=3)
    executor.allow(None)
    await client.ended(*requests)
    assert client.inbox.tokens == {r: undisturbed(r, 12) for r in requests}
    assert len(executor.attaches) == 3
    assert not any(admit.produced for admit in executor.process.admitted)


async def test_a_consumer_that_lost_its_stream_goes_on_from_its_positions(
    client: Client, executor: FakeExecutor
) -> None:
    executor.allow(3)
    requests = submit_many(client, 12)
    await client.received(1, 1)
    await client.break_stream()
    executor.allow(None)
    client.open()
    client.submit(*(submit_message(r, prompt=prompt_of(r), max_tokens=12) for r in requests))
    await client.ended(*requests)
    assert client.inbox.tokens == {r: undisturbed(r, 12) for r in requests}


async def test_ends_are_acknowledged_and_released_requests_forgotten(
    scheduler: SchedulerService, client: Client, executor: FakeExecutor
) -> None:
    requests = submit_many(client, 3)
    await client.ended(*requests)
    client.release(*requests)
    client.submit(submit_message(999, max_tokens=1))
    await client.ended(999)
    assert sorted(scheduler.core.ledger.records) == [999]
    assert executor.acked > 0


async def test_a_cancel_reaches_the_executor(
    scheduler: SchedulerService, client: Client, executor: FakeExecutor
) -> None:
    executor.allow(1)
    client.submit(submit_message(1, max_tokens=50))
    await client.received(1, 1)
    client.cancel(1)
    client.submit(submit_message(2, max_tokens=1))
    await executor.until(admitted=2)
    executor.allow(None)
    await client.ended(2)
    assert 1 not in executor.process.rows
    assert list(scheduler.core.ledger.records) == [2]


async def test_readiness_follows_the_executor(tmp_path: Path, scheduler: SchedulerService) -> None:
    await wait_ready(tmp_path, False)
    executor = await FakeExecutor(address(tmp_path, "executor")).start()
    await wait_ready(tmp_path, True)
    await executor.kill()
    await wait_ready(tmp_path, False)


async def test_the_model_is_told_once_an_executor_named_it(
    tmp_path: Path, scheduler: SchedulerService, client: Client
) -> None:
    before = await client.stub.Describe(scheduler_pb2.SchedulerDescribeRequest())
    assert not before.HasField("identity")
    executor = await FakeExecutor(address(tmp_path, "executor")).start()
    await wait_ready(tmp_path, True)
    after = await client.stub.Describe(scheduler_pb2.SchedulerDescribeRequest())
    assert after.identity.max_context == IDENTITY.max_context
    assert after.epoch == before.epoch > 0
    await executor.kill()


async def test_an_executor_with_another_model_does_not_make_the_scheduler_ready(
    tmp_path: Path, scheduler: SchedulerService, caplog: pytest.LogCaptureFixture
) -> None:
    first = await FakeExecutor(address(tmp_path, "executor"), epoch=1).start()
    await wait_ready(tmp_path, True)
    await first.kill()
    await wait_ready(tmp_path, False)
    other = FakeExecutor(address(tmp_path, "executor"), epoch=2, identity=replace(IDENTITY, revision="beef"))
    await other.start()
    await other.until(streams=2)
    assert "revision differs: 0123 here, beef at executor" in caplog.text
    assert not scheduler.core.ready
    await other.kill()


async def test_a_malformed_call_is_refused_alone(client: Client, executor: FakeExecutor) -> None:
    bad = submit_message(1)
    bad.sampling.logit_bias_ids.append(5)
    worse = submit_message(2)
    worse.sampling.grammar.key = b"k"
    client.submit(bad, worse, submit_message(3, prompt=prompt_of(3)))
    await client.ended(1, 2, 3)
    assert {f.request: f.code for f in client.inbox.failures} == {1: Code.INVALID_ARGUMENT, 2: Code.INVALID_ARGUMENT}
    assert client.inbox.tokens[3] == undisturbed(3, 5)


async def test_a_stream_that_does_not_attach_is_refused(client: Client) -> None:
    call = client.stub.Stream()
    await call.write(scheduler_pb2.SchedulerRequest(seq=1))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "attach is missing" in (caught.value.details() or "")


async def test_lengths_that_do_not_fit_the_stopped_requests_end_the_stream(client: Client) -> None:
    call = client.stub.Stream()
    await call.write(scheduler_pb2.SchedulerRequest(attach=common_pb2.Attach(peer="x"), seq=1))
    await call.read()
    await call.write(scheduler_pb2.SchedulerRequest(stopped=[1], seq=2))
    with pytest.raises(grpc.aio.AioRpcError, match="stopped_lengths has 0 entries"):
        await call.read()


async def test_a_deadline_passes_without_any_other_event(client: Client, executor: FakeExecutor) -> None:
    executor.allow(0)
    call = submit_message(1)
    call.deadline_unix_ms = int(time.time() * 1000) + 100
    client.submit(call)
    await client.ended(1)
    assert [f.code for f in client.inbox.failures] == [Code.DEADLINE_EXCEEDED]


async def test_a_drain_lets_accepted_requests_end_and_refuses_new_ones(
    scheduler: SchedulerService, client: Client, executor: FakeExecutor
) -> None:
    executor.allow(1)
    client.submit(submit_message(1, prompt=prompt_of(1)))
    await client.received(1, 1)
    draining = asyncio.create_task(scheduler.drain(20))
    await asyncio.sleep(0)
    client.submit(submit_message(2))
    await client.ended(2)
    assert not draining.done()
    executor.allow(None)
    await client.ended(1)
    client.release(1)
    await draining
    assert client.inbox.tokens[1] == undisturbed(1, 5)
    assert [(f.request, f.code) for f in client.inbox.failures] == [(2, Code.UNAVAILABLE)]
    assert not scheduler.core.ledger.records


def extend(tokens: tuple[int, ...]) -> scheduler_pb2.StateOrder:
    return scheduler_pb2.StateOrder(extend=scheduler_pb2.ExtendOrder(state=0, tokens=tokens))


async def test_a_program_is_opened_and_a_request_goes_on_from_its_state(
    tmp_path: Path, client: Client, executor: FakeExecutor
) -> None:
    change = scheduler_pb2.ChangeProgramRequest(program=PROGRAM, lease_s=60, orders=[extend((1, 2)), extend((5000,))])
    await wait_ready(tmp_path, True)
    first, second = (await client.stub.ChangeProgram(change)).answers
    assert (first.length, list(first.tail), first.code) == (2, [1, 2], 0)
    assert second.code == Code.INVALID_ARGUMENT
    call = submit_message(1, prompt=(77,))
    call.base.program = PROGRAM
    client.submit(call)
    await client.ended(1)
    assert client.inbox.tokens[1] == undisturbed(77, 5)


async def test_a_program_that_is_not_known_is_a_status_of_the_call(client: Client) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="is not known here") as caught:
        await client.stub.ChangeProgram(scheduler_pb2.ChangeProgramRequest(program=PROGRAM))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_lease_ends_without_any_other_event(client: Client, executor: FakeExecutor) -> None:
    executor.allow(0)
    await client.stub.ChangeProgram(
        scheduler_pb2.ChangeProgramRequest(program=PROGRAM, lease_s=1, orders=[extend((1, 2))])
    )
    call = submit_message(1)
    call.base.program = PROGRAM
    client.submit(call)
    await client.ended(1)
    assert client.inbox.finish[1] is FinishReason.CANCELLED
    with pytest.raises(grpc.aio.AioRpcError, match="is not known here"):
        await client.stub.ChangeProgram(scheduler_pb2.ChangeProgramRequest(program=PROGRAM))


async def test_metrics_tell_of_requests_and_pages(tmp_path: Path, client: Client, executor: FakeExecutor) -> None:
    client.submit(submit_message(1))
    await client.ended(1)
    async with open_channel(address(tmp_path, "scheduler")) as channel:
        stub = telemetry_pb2_grpc.IntrospectionServiceStub(channel)
        answer = await stub.Metrics(telemetry_pb2.MetricsRequest())
    text = answer.processes[0].exposition.decode()
    assert answer.processes[0].service == "scheduler"
    for name in (
        "bough_scheduler_queue_length",
        'bough_scheduler_requests_total{finish="length"',
        "bough_scheduler_time_to_first_token_seconds_bucket",
        "bough_scheduler_queue_time_seconds_bucket",
        "bough_scheduler_executor_pages_free",
        "bough_scheduler_cached_tokens_total",
        "bough_scheduler_program_tokens",
    ):
        assert name in text


async def test_metrics_of_every_executor_are_behind_those_of_the_scheduler(tmp_path: Path) -> None:
    addresses = [address(tmp_path, f"executor-{copy}") for copy in (1, 2)]
    servers, telemetries = [RpcServer(each) for each in addresses], [Telemetry(f"executor {c}") for c in (1, 2)]
    for server, telemetry in zip(servers, telemetries, strict=True):
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(IntrospectionServicer(telemetry), server.server)
        await server.start()
    service = SchedulerService(settings(tmp_path, executor_address=",".join(addresses)))
    await service.start()
    async with open_channel(address(tmp_path, "scheduler")) as channel:
        stub = telemetry_pb2_grpc.IntrospectionServiceStub(channel)
        answer = await stub.Metrics(telemetry_pb2.MetricsRequest(), timeout=10)
    assert sorted(process.service for process in answer.processes) == ["executor 1", "executor 2", "scheduler"]
    await service.stop()
    for server, telemetry in zip(servers, telemetries, strict=True):
        await server.stop(0)
        telemetry.close()
