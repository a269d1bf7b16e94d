"""Programs over gRPC: what each call does."""

from __future__ import annotations

import grpc.aio
import pytest

from bough.rpc.v1 import gateway_pb2
from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.conftest import Deployment
from tests.gateway.programs.client import (
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

STOP, STOP_STRING, LENGTH = 1, 2, 3


async def test_a_program_has_a_name_a_lease_and_an_empty_state(deployment: Deployment, client: ProgramClient) -> None:
    assert client.opened.program
    assert client.opened.lease_s == 60
    assert client.opened.identity.model == "tiny"
    assert deployment.chain.scheduler.program.lease_s == 60
    assert deployment.chain.scheduler.program.texts == {0: ""}


async def test_text_and_ids_are_added(deployment: Deployment, client: ProgramClient) -> None:
    changed = (await client.do(extend=text(0, "ab"))).changed
    assert (changed.state, changed.length) == (0, 2)
    assert (await client.do(extend=ids(0, 99, 100))).changed.length == 4
    assert (await client.do(extend=text(0, ""))).changed.length == 4
    assert deployment.chain.scheduler.program.texts == {0: "abcd"}


async def test_only_the_beginning_gets_what_a_prompt_gets(deployment: Deployment, client: ProgramClient) -> None:
    deployment.chain.tokenizer.bos = "^"
    await client.do(extend=text(0, "ab"))
    await client.do(extend=text(0, "cd"))
    await client.do(rollback=cut(0, 0))
    assert deployment.chain.scheduler.program.texts == {0: ""}
    await client.do(extend=text(0, "e"))
    assert deployment.chain.scheduler.program.texts == {0: "^e"}


async def test_a_generation_streams_and_becomes_a_part_of_its_state(
    deployment: Deployment, client: ProgramClient
) -> None:
    await client.do(extend=text(0, "ab"))
    number = await client.send(generate=gen(0))
    changed = (await client.result(number)).changed
    assert client.text(number) == "echo of ab"
    last = client.pieces[number][-1]
    assert last.finish_reason == STOP
    assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (2, 11)
    # The end-of-sequence token was produced, and is not kept.
    assert deployment.chain.scheduler.program.texts == {0: "abecho of ab"}
    assert changed.length == 12


async def test_a_whole_generation_comes_in_one_piece(client: ProgramClient) -> None:
    await client.do(extend=text(0, "ab"))
    number = await client.send(generate=gen(0, whole=True, n=2, top_logprobs=0))
    assert (await client.result(number)).changed.length == 2
    assert [piece.text for piece in client.pieces[number]] == ["echo of ab", "echo of ab"]
    assert [len(piece.logprobs.logprobs) for piece in client.pieces[number]] == [11, 11]


async def test_pieces_come_no_closer_together_than_asked_for(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "ab"))
    action = gen(0)
    action.pause_ms = 3_600_000
    number = await client.send(generate=action)
    await client.result(number)
    # The first one comes at once and the last one with the end; all between is one piece.
    assert len(client.pieces[number]) <= 2
    assert client.text(number) == "echo of ab"
    assert client.pieces[number][-1].finish_reason == STOP


async def test_log_probabilities_come_with_the_bytes_of_their_tokens(client: ProgramClient) -> None:
    await client.do(extend=text(0, "ab"))
    number = await client.send(generate=gen(0, whole=True, top_logprobs=2, max_tokens=2))
    await client.result(number)
    (piece,) = client.pieces[number]
    assert list(piece.logprob_bytes) == [b"e", b"c"]
    assert list(piece.top_bytes) == [b"e", b"f", b"c", b"d"]


async def test_several_continuations_leave_the_state_alone(deployment: Deployment, client: ProgramClient) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: f"{prompt}{sibling}"
    await client.do(extend=text(0, "x"))
    number = await client.send(generate=gen(0, n=3))
    assert (await client.result(number)).changed.length == 1
    assert [client.text(number, index) for index in range(3)] == ["x0", "x1", "x2"]
    assert deployment.chain.scheduler.program.texts == {0: "x"}


@pytest.mark.parametrize(("include", "kept"), [(False, "a: one"), (True, "a: one\nQ:")])
async def test_a_stop_string_stays_out_of_the_state_unless_it_is_asked_for(
    deployment: Deployment, client: ProgramClient, include: bool, kept: str
) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: " one\nQ: two"
    await client.do(extend=text(0, "a:"))
    number = await client.send(generate=gen(0, stop=["\nQ:"], include_stop=include))
    await client.result(number)
    assert client.pieces[number][-1].finish_reason == STOP_STRING
    assert deployment.chain.scheduler.program.texts == {0: kept}


async def test_what_was_cut_short_is_kept_whole(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "a"))
    number = await client.send(generate=gen(0, max_tokens=3))
    await client.result(number)
    assert client.pieces[number][-1].finish_reason == LENGTH
    assert deployment.chain.scheduler.program.texts == {0: "aech"}


async def test_choices_are_scored_side_by_side_as_given_outputs(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "is it"))
    selected = (await client.do(select=select(0, "yes", "no", unconditional=True))).selected
    assert list(selected.counts) == [3, 2]
    assert "".join(map(chr, selected.token_ids)) == "yesno"
    assert list(selected.logprobs) == [-0.25, -0.5, -0.75, -0.25, -0.5]
    assert list(selected.unconditional_logprobs) == list(selected.logprobs)
    submissions = deployment.chain.backend.submissions
    assert [submission.sampling.forced_ids for submission in submissions] == [(121, 101, 115), (110, 111)] * 2
    assert [submission.base is None for submission in submissions] == [False, False, True, True]
    assert all(submission.sampling.ignore_eos for submission in submissions)
    # Nothing stands before the unconditional ones but the end of another sequence: this model has no beginning.
    assert [submission.prompt for submission in submissions] == [(), (), (0,), (0,)]
    assert deployment.chain.scheduler.program.texts == {0: "is it"}


async def test_branches_grow_by_themselves_and_are_joined_in_order(
    deployment: Deployment, client: ProgramClient
) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: prompt[-1] * 2
    await client.do(extend=text(0, "root "))
    forked = (await client.do(fork=fork(0, 5, 7))).changed
    assert (forked.state, forked.length) == (0, 5)
    await client.do(extend=text(5, "a"))
    await client.do(extend=text(7, "b"))
    await client.do(generate=gen(7))
    await client.do(generate=gen(5))
    assert deployment.chain.scheduler.program.texts == {0: "root ", 5: "root aaa", 7: "root bbb"}
    assert (await client.do(join=join(0, 7, 5))).changed.length == 11
    assert deployment.chain.scheduler.program.texts == {0: "root bbbaaa"}


async def test_a_state_is_cut_and_given_up(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "abcd"))
    await client.do(fork=fork(0, 1))
    assert (await client.do(rollback=cut(1, 2))).changed.length == 2
    await client.do(extend=text(1, "x"))
    assert deployment.chain.scheduler.program.texts == {0: "abcd", 1: "abx"}
    await client.do(release=release(1))
    assert deployment.chain.scheduler.program.texts == {0: "abcd"}


async def test_closing_ends_the_program_and_the_stream(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "abcd"))
    await client.do(close=pb.CloseProgram())
    assert await client.ended() is grpc.StatusCode.OK
    assert deployment.chain.scheduler.programs == {}


async def test_a_client_that_has_said_all_gets_all_answers(deployment: Deployment, client: ProgramClient) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await client.send(extend=text(0, "ab"))
    number = await client.send(generate=gen(0))
    await client.half_close()
    await backend.wait_for(lambda: bool(backend.runs))
    backend.automatic = True
    backend.notify()
    assert (await client.result(number)).changed.length == 12
    assert await client.ended() is grpc.StatusCode.OK
    assert deployment.chain.scheduler.program.texts == {0: "abecho of ab"}


async def test_constraints_and_sampling_are_those_of_other_calls(deployment: Deployment, client: ProgramClient) -> None:
    await client.do(extend=text(0, "ab"))
    await client.do(generate=gen(0, regex="[a-z]+", temperature=0, max_tokens=7, stop=["z"]))
    (submission,) = deployment.chain.backend.submissions
    assert submission.sampling.grammar is not None
    assert (submission.sampling.temperature, submission.sampling.max_tokens) == (0, 7)
    assert submission.text.stop == ("z",)
    assert submission.base is not None and submission.base.state == 0
    assert submission.base.program in deployment.chain.scheduler.programs


async def test_each_call_has_a_name_of_its_own_for_the_logs_of_all_services(
    deployment: Deployment, client: ProgramClient
) -> None:
    await client.do(extend=text(0, "ab"))
    for _ in range(2):
        await client.do(generate=gen(0, n=2))
    one, two = (submission.name for submission in deployment.chain.backend.submissions)
    assert one != two
    assert one.rpartition(".")[0] == two.rpartition(".")[0]
    assert client.opened.program not in one


async def test_the_salt_of_a_program_is_that_of_its_prefixes(deployment: Deployment, channel: grpc.aio.Channel) -> None:
    async with ProgramClient(channel, pb.OpenProgram(cache_salt="tenant", lease_s=9)) as client:
        assert client.opened.lease_s == 9
        assert len(deployment.chain.scheduler.program.namespace) == 32
        await client.do(extend=text(0, "ab"))
        await client.do(select=select(0, "a", "b", unconditional=True))
        namespaces = {submission.cache_namespace for submission in deployment.chain.backend.submissions[2:]}
        assert b"" not in namespaces


async def test_a_generation_is_named_for_who_wants_to_go_on_with_it(client: ProgramClient) -> None:
    await client.do(extend=text(0, "ab"))
    number = await client.send(generate=gen(0))
    await client.result(number)
    assert len({piece.generation for piece in client.pieces[number]}) == 1
    assert isinstance(client.pieces[number][0], gateway_pb2.GenerateResponse)
    assert client.pieces[number][0].generation
