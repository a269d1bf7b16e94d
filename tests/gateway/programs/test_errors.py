"""Programs over gRPC: what is refused, with which code and in which words."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

from bough.rpc.v1 import gateway_pb2
from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.conftest import Deploy, Deployment
from tests.gateway.programs.client import (
    CallFailedError,
    ProgramClient,
    cut,
    fork,
    gen,
    ids,
    join,
    release,
    select,
    text,
)

INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS = 3, 5, 6
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, ABORTED = 8, 9, 10


@pytest.mark.parametrize(
    ("action", "code", "said"),
    [
        ({"extend": text(9, "x")}, NOT_FOUND, "state: 9"),
        ({"generate": gen(9)}, NOT_FOUND, "state: 9"),
        ({"select": select(9, "a", "b")}, NOT_FOUND, "state: 9"),
        ({"fork": fork(9, 10)}, NOT_FOUND, "state: 9"),
        ({"join": join(0, 9)}, NOT_FOUND, "state: 9"),
        ({"rollback": cut(9, 0)}, NOT_FOUND, "state: 9"),
        ({"release": release(9)}, NOT_FOUND, "state: 9"),
        ({"extend": text(2, "x")}, NOT_FOUND, "state: 2"),  # was released
        ({"fork": fork(0, 1)}, ALREADY_EXISTS, "state 1"),
        ({"join": join(1, 0)}, FAILED_PRECONDITION, "state 0 did not branch off state 1"),
        ({"join": join(0, 3)}, NOT_FOUND, "state: 3"),  # was joined
        ({"extend": ids(0, 70_000)}, INVALID_ARGUMENT, "token_ids: got 70000"),
        ({"extend": pb.ExtendState(state=0)}, INVALID_ARGUMENT, "one of text, token_ids and chat"),
        ({"extend": text(0, "x" * 255)}, INVALID_ARGUMENT, "state: would have 257 tokens, accepted are at most 256"),
        ({"generate": gen(0, max_tokens=255)}, INVALID_ARGUMENT, "max_tokens: got 255, accepted are at most 254"),
        ({"generate": gen(0, temperature=-1)}, INVALID_ARGUMENT, "temperature: got -1"),
        ({"generate": gen(0, text="x")}, INVALID_ARGUMENT, "options.text"),
        ({"generate": gen(0, model="tiny")}, INVALID_ARGUMENT, "options.model"),
        ({"generate": gen(0, cache_salt="s")}, INVALID_ARGUMENT, "options.cache_salt"),
        ({"generate": gen(0, regex="bad")}, INVALID_ARGUMENT, "regex"),
        ({"generate": gen(4)}, INVALID_ARGUMENT, "state: has no tokens"),
        ({"select": select(4, "a", "b")}, INVALID_ARGUMENT, "state: has no tokens"),
        ({"select": select(0, "a")}, INVALID_ARGUMENT, "2 to 128 texts"),
        ({"select": select(0, "a", "")}, INVALID_ARGUMENT, "choices[1]"),
        ({"select": select(0, "a", "x" * 255)}, INVALID_ARGUMENT, "at most 256"),
        ({"fork": fork(0)}, INVALID_ARGUMENT, "1 to 1024"),
        ({"fork": fork(0, 10, 11, 10)}, INVALID_ARGUMENT, "children: got 10, accepted is each state once"),
        ({"join": join(0)}, INVALID_ARGUMENT, "children"),
        ({"join": join(0, 1, 1)}, INVALID_ARGUMENT, "children: got 1, accepted is each state once"),
        ({"rollback": cut(0, 3)}, INVALID_ARGUMENT, "length: got 3"),
        ({"release": release()}, INVALID_ARGUMENT, "states"),
        ({"open": pb.OpenProgram()}, INVALID_ARGUMENT, "open only in the first message"),
        ({}, INVALID_ARGUMENT, "action"),
    ],
)
async def test_what_is_wrong_is_said_and_changes_nothing(
    deployment: Deployment, client: ProgramClient, action: dict[str, Any], code: int, said: str
) -> None:
    await client.do(fork=fork(0, 1, 2, 3, 4))
    await client.do(extend=text(0, "ab"))
    await client.do(release=release(2))
    await client.do(join=join(0, 3))
    with pytest.raises(CallFailedError) as failed:
        await client.do(**action)
    assert failed.value.code == code
    assert said in str(failed.value)
    assert deployment.chain.scheduler.program.texts == {0: "ab", 1: "", 4: ""}
    assert (await client.do(extend=text(0, "c"))).changed.length == 3


@pytest.mark.parametrize(
    ("opening", "code", "said"),
    [
        (pb.OpenProgram(lease_s=0), grpc.StatusCode.INVALID_ARGUMENT, "lease_s: got 0"),
        (pb.OpenProgram(lease_s=3601), grpc.StatusCode.INVALID_ARGUMENT, "lease_s: got 3601"),
        (pb.OpenProgram(model="gpt"), grpc.StatusCode.NOT_FOUND, "'gpt'"),
        (pb.OpenProgram(program="rubbish"), grpc.StatusCode.NOT_FOUND, 'program: "rubbish" does not exist'),
        (pb.OpenProgram(program="A" * 22 + "8A"), grpc.StatusCode.NOT_FOUND, "is not known"),
    ],
)
async def test_what_cannot_be_opened_ends_the_stream(
    channel: grpc.aio.Channel, opening: pb.OpenProgram, code: grpc.StatusCode, said: str
) -> None:
    client = ProgramClient(channel, opening)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.start()
    assert refused.value.code() is code
    assert said in (refused.value.details() or "")


async def test_a_stream_begins_with_an_opening(client: ProgramClient, channel: grpc.aio.Channel) -> None:
    other = ProgramClient(channel)
    await other.stream.write(pb.ProgramRequest(call=1, extend=text(0, "x")))
    assert await other.ended() is grpc.StatusCode.INVALID_ARGUMENT


async def test_two_calls_with_one_number_end_the_stream(deployment: Deployment, client: ProgramClient) -> None:
    deployment.chain.backend.automatic = False
    await client.do(extend=text(0, "x"))
    number = await client.send(generate=gen(0))
    await client.stream.write(pb.ProgramRequest(call=number, extend=text(0, "x")))
    assert await client.ended() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_state_that_somebody_else_has_changed_is_left_to_them(
    deployment: Deployment, client: ProgramClient, channel: grpc.aio.Channel
) -> None:
    await client.do(extend=text(0, "ab"))
    async with ProgramClient(channel, pb.OpenProgram(program=client.opened.program)) as other:
        await other.do(extend=text(0, "c"))
    with pytest.raises(CallFailedError) as failed:
        await client.do(extend=text(0, "d"))
    assert failed.value.code == ABORTED
    # Now it is known how the state ends.
    assert (await client.do(extend=text(0, "d"))).changed.length == 4
    assert deployment.chain.scheduler.program.texts == {0: "abcd"}


async def test_a_full_queue_says_when_to_try_again(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "x"))
    deployment.chain.backend.rejection = (RESOURCE_EXHAUSTED, "full", 2500)
    with pytest.raises(CallFailedError, match="full") as failed:
        await client.do(generate=gen(0))
    assert (failed.value.code, failed.value.retry_after_ms) == (RESOURCE_EXHAUSTED, 2500)


async def test_a_scheduler_without_room_refuses_by_name(deployment: Deployment, client: ProgramClient) -> None:
    deployment.chain.scheduler.refusal = (RESOURCE_EXHAUSTED, "children: too many states")
    with pytest.raises(CallFailedError, match="too many states") as failed:
        await client.do(fork=fork(0, 1))
    assert failed.value.code == RESOURCE_EXHAUSTED


async def test_a_call_that_may_have_been_carried_out_is_not_repeated(
    deployment: Deployment, client: ProgramClient
) -> None:
    scheduler = deployment.chain.scheduler
    before = len(scheduler.requests)
    scheduler.open_gate.clear()
    number = await client.send(extend=text(0, "ab"))
    await scheduler.wait_for_requests(before + 1)
    await deployment.chain.kill("scheduler")
    scheduler.open_gate.set()
    with pytest.raises(CallFailedError, match="scheduler is not available"):
        await client.result(number)
    await deployment.chain.start_service("scheduler")


async def test_the_key_is_asked_for(deploy: Deploy) -> None:
    deployment = await deploy(api_key="secret")
    async with grpc.aio.insecure_channel(deployment.grpc_address) as channel:
        client = ProgramClient(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await client.start()
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        async with ProgramClient(channel, metadata=(("authorization", "Bearer secret"),)) as allowed:
            assert allowed.opened.program


async def test_a_gateway_without_a_scheduler_says_what_is_to_be_set(deploy: Deploy) -> None:
    deployment = await deploy(scheduler_address=None)
    async with grpc.aio.insecure_channel(deployment.grpc_address) as channel:
        with pytest.raises(grpc.aio.AioRpcError, match="set scheduler_address") as refused:
            await ProgramClient(channel).start()
        assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_generation_whose_state_was_released_elsewhere_is_not_found(
    deployment: Deployment, client: ProgramClient
) -> None:
    await client.do(extend=text(0, "ab"))
    del deployment.chain.scheduler.program.states[0]
    with pytest.raises(CallFailedError, match="there is no state 0") as failed:
        await client.do(generate=gen(0))
    assert failed.value.code == NOT_FOUND
    assert isinstance(client.pieces, dict) and not any(
        isinstance(piece, gateway_pb2.GenerateResponse) for pieces in client.pieces.values() for piece in pieces
    )
