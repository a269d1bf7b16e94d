"""Programs over gRPC: what outlives a stream, and what ends with it."""

from __future__ import annotations

import asyncio

import grpc.aio
import pytest

from bough.gateway.programs.actions import Changed
from bough.gateway.programs.outlet import Outlet
from bough.rpc.v1 import program_pb2 as pb
from bough.rpc.v1 import scheduler_pb2
from tests.gateway.conftest import Deploy, Deployment
from tests.gateway.programs.client import ProgramClient, fork, gen, join, text


def _only_renews(request: scheduler_pb2.ChangeProgramRequest) -> bool:
    return not (request.orders or request.close or request.HasField("lease_s"))


async def test_a_program_is_gone_on_with_by_its_name(
    deployment: Deployment, client: ProgramClient, channel: grpc.aio.Channel
) -> None:
    await client.do(extend=text(0, "ab"))
    await client.do(fork=fork(0, 1))
    await client.leave()
    async with ProgramClient(channel, pb.OpenProgram(program=client.opened.program)) as again:
        assert again.opened == client.opened
        await again.do(extend=text(1, "c"))
        number = await again.send(generate=gen(1))
        await again.result(number)
        assert again.text(number) == "echo of abc"
        await again.do(join=join(0, 1))
    assert deployment.chain.scheduler.program.texts == {0: "abcecho of abc"}


async def test_who_goes_on_may_change_the_lease(
    deployment: Deployment, client: ProgramClient, channel: grpc.aio.Channel
) -> None:
    opening = pb.OpenProgram(program=client.opened.program, lease_s=7)
    async with ProgramClient(channel, opening) as again:
        assert again.opened.lease_s == 7
        assert deployment.chain.scheduler.program.lease_s == 7


async def test_a_program_that_is_gone_does_not_come_back_empty(
    deployment: Deployment, client: ProgramClient, channel: grpc.aio.Channel
) -> None:
    await client.leave()
    deployment.chain.scheduler.programs.clear()
    opening = pb.OpenProgram(program=client.opened.program, lease_s=7)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await ProgramClient(channel, opening).start()
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    assert deployment.chain.scheduler.programs == {}


async def test_an_open_stream_renews_the_lease(deployment: Deployment, channel: grpc.aio.Channel) -> None:
    scheduler = deployment.chain.scheduler
    async with ProgramClient(channel, pb.OpenProgram(lease_s=1)):
        await scheduler.wait_for_requests(3)
        assert all(_only_renews(request) for request in scheduler.requests[1:])


async def test_a_lost_program_ends_the_stream(deployment: Deployment, channel: grpc.aio.Channel) -> None:
    async with ProgramClient(channel, pb.OpenProgram(lease_s=1)) as client:
        deployment.chain.scheduler.programs.clear()
        assert await client.ended() is grpc.StatusCode.NOT_FOUND


async def test_a_stream_that_breaks_cancels_its_calls_and_renews_the_lease(
    deployment: Deployment, client: ProgramClient
) -> None:
    backend, scheduler = deployment.chain.backend, deployment.chain.scheduler
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    await client.do(fork=fork(0, *range(1, 9)))
    for state in range(9):
        await client.send(generate=gen(state))
    await backend.wait_for(lambda: len(backend.runs) == 9)
    before = len(scheduler.requests)
    await client.leave()
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))
    await scheduler.wait_for_requests(before + 1)
    assert [_only_renews(request) for request in scheduler.requests[before:]] == [True]
    assert scheduler.program.texts == dict.fromkeys(range(9), "ab")


async def test_a_client_that_dies_in_the_middle_of_a_fork_leaves_a_program_that_works(
    deployment: Deployment, client: ProgramClient, channel: grpc.aio.Channel
) -> None:
    scheduler = deployment.chain.scheduler
    await client.do(extend=text(0, "ab"))
    before = len(scheduler.requests)
    scheduler.open_gate.clear()
    await client.send(fork=fork(0, 1, 2))
    await client.send(extend=text(1, "c"))
    await scheduler.wait_for_requests(before + 1)
    await client.leave()
    # The call was broken off; whether the scheduler has carried it out is its own affair. Nothing follows it.
    await scheduler.wait_for_requests(before + 2)
    scheduler.open_gate.set()
    async with ProgramClient(channel, pb.OpenProgram(program=client.opened.program)) as again:
        assert (await again.do(extend=text(0, "d"))).changed.length == 3
    assert scheduler.program.texts in ({0: "abd"}, {0: "abd", 1: "ab", 2: "ab"})


async def test_a_gateway_that_drains_answers_what_it_has_taken(deployment: Deployment, client: ProgramClient) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    number = await client.send(generate=gen(0))
    await backend.wait_for(lambda: bool(backend.runs))
    draining = asyncio.create_task(deployment.service.drain(20))
    backend.automatic = True
    backend.notify()
    assert (await client.result(number)).changed.length == 12
    assert await client.ended() is grpc.StatusCode.UNAVAILABLE
    assert "open the program again by its name" in await client.stream.details()
    await draining
    assert deployment.chain.scheduler.program.texts == {0: "abecho of ab"}


async def test_another_gateway_goes_on_with_a_program(deploy: Deploy) -> None:
    one = await deploy()
    other = await deploy(
        model=one.chain.model,
        scheduler_address=one.chain.address("scheduler"),
        detokenizer_address=one.chain.detokenizer_addresses,
    )
    async with grpc.aio.insecure_channel(one.grpc_address) as channel, ProgramClient(channel) as client:
        await client.do(extend=text(0, "ab"))
        name = client.opened.program
    async with (
        grpc.aio.insecure_channel(other.grpc_address) as channel,
        ProgramClient(channel, pb.OpenProgram(program=name)) as again,
    ):
        assert (await again.do(extend=text(0, "c"))).changed.length == 3


async def test_a_client_that_reads_slowly_keeps_senders_waiting() -> None:
    gate, written = asyncio.Event(), list[int]()

    async def write(call: int, answer: object) -> None:
        await gate.wait()
        written.append(call)

    outlet = Outlet(write)
    running = asyncio.create_task(outlet.run())
    senders = [asyncio.create_task(outlet.send(call, Changed())) for call in range(3)]
    done, _ = await asyncio.wait(senders, timeout=0)
    assert not done
    # Whoever is gone has sent all the same: a write that was begun cannot be taken back.
    senders[0].cancel()
    gate.set()
    await asyncio.wait(senders)
    assert written == [0, 1, 2]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_calls_beyond_a_bound_are_not_read(
    deployment: Deployment, client: ProgramClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bough.gateway.programs.session.MAX_UNANSWERED", 4)
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "x"))
    await client.do(fork=fork(0, *range(1, 9)))
    numbers = [await client.send(generate=gen(state)) for state in range(9)]
    await backend.wait_for(lambda: len(backend.runs) == 4)
    backend.automatic = True
    backend.notify()
    for number in numbers:
        await client.result(number)
    assert len(backend.runs) == 9
