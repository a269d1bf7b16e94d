"""Programs over gRPC: in which order calls run, and what becomes of those that others do away with."""

from __future__ import annotations

import pytest

from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.conftest import Deployment
from tests.gateway.programs.client import (
    CallFailedError,
    ProgramClient,
    cut,
    fork,
    gen,
    join,
    release,
    select,
    text,
)

CANCELLED, ALREADY_EXISTS, NOT_FOUND = 1, 6, 5


async def test_calls_are_sent_before_those_they_build_on_are_answered(
    deployment: Deployment, client: ProgramClient
) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: f"<{prompt[-1]}>"
    for action in (text(0, "root "), text(1, "a"), text(2, "b")):
        if action.state == 1:
            await client.send(fork=fork(0, 1, 2))
        await client.send(extend=action)
    await client.send(generate=gen(1))
    await client.send(generate=gen(2))
    await client.send(extend=text(1, "!"))
    last = await client.send(join=join(0, 1, 2))
    assert (await client.result(last)).changed.length == 14
    assert deployment.chain.scheduler.program.texts == {0: "root a<a>!b<b>"}


async def test_calls_on_one_state_wait_and_those_on_others_do_not(
    deployment: Deployment, client: ProgramClient
) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "x"))
    await client.do(fork=fork(0, 1))
    first = await client.send(generate=gen(0))
    behind = await client.send(select=select(0, "a", "b"))
    beside = await client.send(generate=gen(1))
    await backend.wait_for(lambda: len(backend.submissions) == 2)
    assert {submission.base.state for submission in backend.submissions if submission.base} == {0, 1}
    backend.automatic = True
    backend.notify()
    for number in (first, beside, behind):
        await client.result(number)
    assert client.answered.index(first) < client.answered.index(behind)


async def test_orders_of_one_moment_travel_together(deployment: Deployment, client: ProgramClient) -> None:
    scheduler, tokenizer = deployment.chain.scheduler, deployment.chain.tokenizer
    await client.do(extend=text(0, "root"))
    await client.do(fork=fork(0, *range(1, 101)))
    before, calls_before = len(scheduler.requests), tokenizer.num_calls
    scheduler.open_gate.clear()
    numbers = [await client.send(extend=text(state, "x")) for state in range(1, 101)]
    await scheduler.wait_for_requests(before + 1)
    scheduler.open_gate.set()
    for number in numbers:
        assert (await client.result(number)).changed.length == 5
    assert len(scheduler.requests) - before < 50
    assert tokenizer.num_calls - calls_before < 100


async def test_what_builds_on_a_failed_fork_fails_as_it_did(deployment: Deployment, client: ProgramClient) -> None:
    scheduler = deployment.chain.scheduler
    await client.do(extend=text(0, "root"))
    await client.do(fork=fork(0, 1))
    await client.do(extend=text(1, " mine"))
    before = len(scheduler.requests)
    scheduler.open_gate.clear()
    failing = await client.send(fork=fork(0, 1, 2))
    behind = [
        await client.send(extend=text(1, "x")),
        await client.send(generate=gen(1)),
        await client.send(fork=fork(2, 3)),
        await client.send(extend=text(3, "y")),
        await client.send(join=join(0, 1)),
    ]
    await scheduler.wait_for_requests(before + 1)
    scheduler.open_gate.set()
    for number in (failing, *behind):
        with pytest.raises(CallFailedError, match="state 1 exists") as failed:
            await client.result(number)
        assert failed.value.code == ALREADY_EXISTS
    assert scheduler.program.texts == {0: "root", 1: "root mine"}
    # Nobody sent these in ignorance.
    await client.do(extend=text(1, "!"))
    await client.do(fork=fork(0, 2))
    assert scheduler.program.texts == {0: "root", 1: "root mine!", 2: "root"}


async def test_what_a_failed_fork_did_not_make_cannot_be_released(client: ProgramClient) -> None:
    await client.send(fork=fork(9, 1))
    with pytest.raises(CallFailedError, match="state: 9"):
        await client.do(release=release(0, 1))
    assert (await client.do(extend=text(0, "x"))).changed.length == 1


async def test_a_fork_may_take_a_number_that_a_failed_one_did_not(
    deployment: Deployment, client: ProgramClient
) -> None:
    await client.send(fork=fork(9, 1))
    await client.send(fork=fork(0, 1))
    assert (await client.do(extend=text(1, "x"))).changed.length == 1


async def test_a_failed_call_leaves_its_state_to_those_behind_it(deployment: Deployment, client: ProgramClient) -> None:
    await client.send(extend=text(0, "ab"))
    failing = await client.send(rollback=cut(0, 9))
    assert (await client.do(extend=text(0, "c"))).changed.length == 3
    with pytest.raises(CallFailedError, match="got 9, accepted are 0 to 2"):
        await client.result(failing)


async def test_a_cancelled_generation_fails_and_leaves_its_state(deployment: Deployment, client: ProgramClient) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    running = await client.send(generate=gen(0))
    await backend.wait_for(lambda: bool(backend.runs))
    backend.advance(3)
    waiting = await client.send(generate=gen(0))
    behind = await client.send(extend=text(0, "c"))
    # The one that has not begun fails at once, though its turn is yet to come.
    await client.do(cancel=waiting)
    with pytest.raises(CallFailedError):
        await client.result(waiting)
    assert running not in client.answered
    await client.do(cancel=running)
    with pytest.raises(CallFailedError) as failed:
        await client.result(running)
    assert failed.value.code == CANCELLED
    assert (await client.result(behind)).changed.length == 3
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))
    assert deployment.chain.scheduler.program.texts == {0: "abc"}


async def test_cancelling_what_is_over_is_no_error(client: ProgramClient) -> None:
    number = await client.send(extend=text(0, "ab"))
    await client.result(number)
    for target in (number, 1234567):
        assert (await client.do(cancel=target)).HasField("changed")


async def test_a_selection_can_be_cancelled(deployment: Deployment, client: ProgramClient) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    number = await client.send(select=select(0, "yes", "no"))
    await backend.wait_for(lambda: len(backend.runs) == 2)
    await client.do(cancel=number)
    with pytest.raises(CallFailedError) as failed:
        await client.result(number)
    assert failed.value.code == CANCELLED
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))


async def test_releasing_a_state_cancels_what_the_model_does_for_it(
    deployment: Deployment, client: ProgramClient
) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    await client.do(fork=fork(0, 1))
    running = await client.send(generate=gen(1))
    await backend.wait_for(lambda: bool(backend.runs))
    # These were to build on what was generated.
    between = [await client.send(extend=text(1, "c")), await client.send(fork=fork(1, 2))]
    branch = await client.send(extend=text(2, "d"))
    assert (await client.do(release=release(1))).HasField("changed")
    for number in (running, *between, branch):
        with pytest.raises(CallFailedError, match="state 1 was released") as failed:
            await client.result(number)
        assert failed.value.code == CANCELLED
    with pytest.raises(CallFailedError) as failed:
        await client.do(extend=text(1, "e"))
    assert failed.value.code == NOT_FOUND
    assert deployment.chain.scheduler.program.texts == {0: "ab"}
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))


async def test_what_was_sent_before_a_release_is_carried_out(deployment: Deployment, client: ProgramClient) -> None:
    await client.send(extend=text(0, "ab"))
    await client.send(fork=fork(0, 1))
    await client.send(fork=fork(1, 2))
    await client.send(extend=text(2, "c"))
    await client.do(release=release(0, 1))
    assert deployment.chain.scheduler.program.texts in ({2: "abc"}, {2: "ab"})
    await client.do(extend=text(2, "d"))
    assert deployment.chain.scheduler.program.texts == {2: "abcd"}


async def test_a_number_may_be_used_again(deployment: Deployment, client: ProgramClient) -> None:
    for added in "abc":
        await client.send(fork=fork(0, 1))
        await client.send(extend=text(1, added))
        await client.send(join=join(0, 1))
    await client.do(extend=text(0, "."))
    assert deployment.chain.scheduler.program.texts == {0: "abc."}


async def test_closing_cancels_what_is_under_way(deployment: Deployment, client: ProgramClient) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.do(extend=text(0, "ab"))
    running = await client.send(generate=gen(0))
    waiting = await client.send(extend=text(0, "c"))
    await backend.wait_for(lambda: bool(backend.runs))
    await client.do(close=pb.CloseProgram())
    for number in (running, waiting):
        with pytest.raises(CallFailedError, match="the program was closed"):
            await client.result(number)
    assert deployment.chain.scheduler.programs == {}
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))
