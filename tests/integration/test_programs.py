"""Programs on a real server, against the same done by plain completions over token ids."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import httpx
import pytest

from bough.rpc.v1 import gateway_pb2
from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.programs.client import ProgramClient, cut, fork, gen, join, release, select, text
from tests.helpers.repository import ROOT
from tests.integration.server import Server, environment, wait_until

ROOT_TEXT = "Once upon a time there was a lighthouse whose keeper had a daughter. "
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
LEASE_S = 2
NUM_BRANCHES = 200


@dataclass
class Plain:
    """States as lists of token ids, continued by plain completions: nothing is shared."""

    server: Server
    states: dict[int, list[int]] = field(default_factory=lambda: {0: []})

    def encode(self, added: str, *, is_first: bool = False) -> list[int]:
        answer = self.server.post("/v1/tokenize", prompt=added, add_special_tokens=is_first).json()
        return list(answer["tokens"])

    def extend(self, state: int, added: str) -> None:
        self.states[state] += self.encode(added, is_first=not self.states[state])

    def generate(self, state: int, **options: Any) -> str:
        """Continue a state; keeps all tokens, so not for stop strings."""
        choice = self.complete(self.states[state], **options)
        self.states[state] += choice["token_ids"]
        return str(choice["text"])

    def complete(self, ids: list[int], **options: Any) -> dict[str, Any]:
        response = self.server.post("/v1/completions", prompt=ids, return_token_ids=True, **options)
        assert response.status_code == 200, response.text
        choice: dict[str, Any] = response.json()["choices"][0]
        return choice

    def logprobs(self, ids: list[int], continuation: list[int]) -> list[float]:
        """Log probabilities of given tokens, each of them pushed and produced by a call of its own."""
        found = []
        for i, token in enumerate(continuation):
            choice = self.complete(
                ids + continuation[:i], temperature=0, max_tokens=1, logprobs=0, logit_bias={str(token): 100}
            )
            assert choice["token_ids"] == [token]
            found += choice["logprobs"]["token_logprobs"]
        return found


@pytest.fixture
async def client(server: Server) -> AsyncIterator[ProgramClient]:
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ProgramClient(channel) as client,
    ):
        yield client
        await client.do(close=pb.CloseProgram())


async def generate(client: ProgramClient, state: int, **options: Any) -> tuple[str, int]:
    """(text, length of the state after it)."""
    number = await client.send(generate=gen(state, **options))
    changed = (await client.result(number)).changed
    return client.text(number), changed.length


async def test_a_program_over_grpc_says_what_plain_completions_say(server: Server, client: ProgramClient) -> None:
    plain = Plain(server)
    plain.extend(0, ROOT_TEXT)
    await client.do(extend=text(0, ROOT_TEXT))
    said, length = await generate(client, 0, **GREEDY)
    assert said == plain.generate(0, **GREEDY)
    assert length == len(plain.states[0])

    await client.do(fork=fork(0, 1, 2, 3))
    plain.states |= {state: list(plain.states[0]) for state in (1, 2, 3)}
    for state in (1, 2, 3):
        added = f" {state} of them were"
        await client.send(extend=text(state, added))
        plain.extend(state, added)
    branches = await asyncio.gather(*(generate(client, state, **GREEDY) for state in (1, 2, 3)))
    assert [said for said, _ in branches] == [plain.generate(state, **GREEDY) for state in (1, 2, 3)]

    joined = (await client.do(join=join(0, 3, 1))).changed
    plain.states[0] += plain.states[3][length:] + plain.states[1][length:]
    assert joined.length == len(plain.states[0])
    said, _ = await generate(client, 0, **GREEDY)
    assert said == plain.generate(0, **GREEDY)

    await client.do(rollback=cut(2, length - 5))
    del plain.states[2][length - 5 :]
    said, _ = await generate(client, 2, **GREEDY)
    assert said == plain.generate(2, **GREEDY)
    await client.do(release=release(0, 2))


async def test_what_a_stop_string_ended_goes_on_as_its_text(server: Server, client: ProgramClient) -> None:
    plain = Plain(server)
    plain.extend(0, ROOT_TEXT)
    whole = plain.complete(plain.states[0], **GREEDY)["text"]
    # Ends in the middle of a word, and most likely of a token.
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    shown = whole[: whole.index(stop)]
    await client.do(extend=text(0, ROOT_TEXT))
    said, _ = await generate(client, 0, **GREEDY, stop=[stop])
    assert said == shown
    await client.do(fork=fork(0, 1))
    # The same text in a state of its own: its tokens may be others, but not many.
    plain.extend(0, shown)
    end, length = await generate(client, 1, **GREEDY)
    assert length - 24 == pytest.approx(len(plain.states[0]), abs=3)
    assert end


async def test_choices_are_scored_by_the_models_raw_logits(server: Server, client: ProgramClient) -> None:
    plain = Plain(server)
    plain.extend(0, ROOT_TEXT)
    await client.do(extend=text(0, ROOT_TEXT))
    choices = ["She was young.", "The sea", "lamp", " He said nothing to anybody about it"]
    selected = (await client.do(select=select(0, *choices, unconditional=True))).selected
    start = 0
    for choice, count in zip(choices, selected.counts, strict=True):
        ids = plain.encode(choice)
        assert list(selected.token_ids[start : start + count]) == ids
        expected = plain.logprobs(plain.states[0], ids)
        assert list(selected.logprobs[start : start + count]) == pytest.approx(expected, abs=1e-3)
        others = selected.unconditional_logprobs[start : start + count]
        assert list(others) != pytest.approx(expected, abs=1e-3)
        start += count
    # The state is as it was.
    said, _ = await generate(client, 0, **GREEDY)
    assert said == plain.generate(0, **GREEDY)


async def test_branches_find_what_they_share_in_the_cache(client: ProgramClient) -> None:
    await client.do(extend=text(0, ROOT_TEXT * 6))
    await client.do(generate=gen(0, **GREEDY))
    await client.do(fork=fork(0, *range(1, 9)))
    numbers = [await client.send(generate=gen(state, **GREEDY)) for state in range(1, 9)]
    for number in numbers:
        await client.result(number)
        usage: gateway_pb2.Usage = client.pieces[number][-1].usage
        assert usage.prompt_tokens - usage.cached_tokens <= 32


async def test_a_chat_in_a_program_says_what_the_chat_endpoint_says(server: Server, client: ProgramClient) -> None:
    user = {"role": "user", "content": "Tell me of a lighthouse."}
    body = {"messages": [user], "temperature": 0, "max_tokens": 24}
    message = server.post("/v1/chat/completions", **body).json()["choices"][0]["message"]
    await client.do(extend=_chat([user], open_turn=True))
    said, _ = await generate(client, 0, temperature=0, max_tokens=24)
    assert said == message["content"]
    more = {"role": "user", "content": "And of the sea?"}
    chat = [user, {"role": "assistant", "content": said}, more]
    await client.do(extend=_chat(chat, num_known=2, is_open=True, open_turn=True))
    said, _ = await generate(client, 0, temperature=0, max_tokens=24)
    body["messages"] = chat
    assert said == server.post("/v1/chat/completions", **body).json()["choices"][0]["message"]["content"]


def test_a_program_over_rest_says_what_plain_completions_say(server: Server) -> None:
    plain = Plain(server)
    name = server.post("/v1/programs", lease_s=30).json()["id"]

    def do(operation: str, **body: Any) -> dict[str, Any]:
        response: httpx.Response = server.post(f"/v1/programs/{name}/{operation}", **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    plain.extend(0, ROOT_TEXT)
    length = do("extend", state=0, text=ROOT_TEXT)["length"]
    assert length == len(plain.states[0])
    children = do("fork", state=0, n=2)["children"]
    for child, added in zip(children, ("One", "Two"), strict=True):
        plain.states[child] = list(plain.states[0])
        plain.extend(child, added)
        do("extend", state=child, text=added)
        answer = do("generate", state=child, **GREEDY)
        assert answer["choices"][0]["text"] == plain.generate(child, **GREEDY)
        assert answer["length"] == len(plain.states[child])
    scored = do("select", state=children[0], choices=["yes", "no"])["choices"]
    for choice in scored:
        expected = plain.logprobs(plain.states[children[0]], choice["token_ids"])
        assert choice["logprobs"] == pytest.approx(expected, abs=1e-3)
    do("join", state=0, children=children)
    plain.states[0] += [token for child in children for token in plain.states[child][length:]]
    assert do("generate", state=0, **GREEDY)["choices"][0]["text"] == plain.generate(0, **GREEDY)
    do("rollback", state=0, length=length)
    said = do("generate", state=0, **GREEDY)["choices"][0]["text"]
    assert said == plain.complete(plain.states[0][:length], **GREEDY)["text"]
    assert server.client.delete(f"/v1/programs/{name}").status_code == 200
    assert server.post(f"/v1/programs/{name}/extend", state=0, text="x").status_code == 404


def test_a_client_killed_under_many_branches_leaves_nothing_behind(server: Server) -> None:
    command = [sys.executable, "-m", "tests.integration.forking_client"]
    arguments = [f"127.0.0.1:{server.grpc_port}", str(LEASE_S), str(NUM_BRANCHES)]
    environ = environment() | {"PYTHONSAFEPATH": ""}
    with subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, cwd=ROOT, env=environ, text=True) as client:
        assert client.stdout is not None
        name = client.stdout.readline().strip()
        metrics = server.metrics()
        client.kill()
    assert name
    assert metrics.total("bough_scheduler_program_states") > NUM_BRANCHES
    assert metrics.total("bough_kv_pages", state="used") > 0
    # What runs ends with the connection; the states live as long as somebody may come back for them.
    server.wait_idle(timeout_s=5)
    wait_until(lambda: _held(server) == 0, "the lease ends", timeout_s=LEASE_S + 5)
    assert server.post(f"/v1/programs/{name}/extend", state=0, text="x").status_code == 404


async def test_who_comes_back_within_the_lease_finds_the_states(server: Server) -> None:
    plain = Plain(server)
    plain.extend(0, ROOT_TEXT)
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        async with ProgramClient(channel) as client:
            await client.do(extend=text(0, ROOT_TEXT))
            await client.send(generate=gen(0, max_tokens=3000, ignore_eos=True))
        async with ProgramClient(channel, pb.OpenProgram(program=client.opened.program)) as again:
            said, _ = await generate(again, 0, **GREEDY)
            assert said == plain.generate(0, **GREEDY)
            await again.do(close=pb.CloseProgram())
    assert _held(server) == 0


def _held(server: Server) -> float:
    metrics = server.metrics()
    names = ("bough_scheduler_programs", "bough_scheduler_program_states", "bough_scheduler_program_tokens")
    return sum(metrics.total(name) for name in names)


def _chat(messages: list[dict[str, str]], **extension: Any) -> pb.ExtendState:
    prompt = gateway_pb2.ChatPrompt(messages_json=json.dumps(messages))
    return pb.ExtendState(state=0, chat=pb.ChatExtension(chat=prompt, **extension))
