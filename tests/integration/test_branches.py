"""Branches of a long state on real processes: what is sent, computed and held for them."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc.aio
import pytest

from tests.gateway.programs.client import ProgramClient, fork, gen, release, select, text
from tests.integration.server import Server, wait_until

NUM_BRANCHES = 64
PAGE_SIZE = 16
LONG_TEXT = "Once upon a time there was a lighthouse whose keeper had a daughter. " * 150
"""Some 2,500 tokens."""
GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with Server("--dtype", "float32") as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    running.wait_ready()
    running.wait_idle()
    return running


@pytest.fixture
async def client(server: Server) -> AsyncIterator[ProgramClient]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, ProgramClient(channel) as client:
        yield client


def encode(server: Server, added: str) -> list[int]:
    answer = server.post("/v1/tokenize", prompt=added, add_special_tokens=False).json()
    return list(answer["tokens"])


def said_by_plain_completions(server: Server, prompts: list[list[int]], **options: Any) -> list[str]:
    texts = []
    for prompt in prompts:
        texts.append(server.post("/v1/completions", prompt=prompt, **options).json()["choices"][0]["text"])
    return texts


async def fork_and_generate(
    client: ProgramClient, begins: str, endings: list[str], **options: Any
) -> tuple[list[int], list[int]]:
    """Branches of a state with a text each and a generation on each: (numbers of the generations, lengths before)."""
    first = (await client.do(extend=text(0, begins))).changed.length
    await client.do(fork=fork(0, *range(1, len(endings) + 1)))
    sent = [await client.send(extend=text(state, ending)) for state, ending in enumerate(endings, 1)]
    lengths = [(await client.result(number)).changed.length for number in sent]
    numbers = [await client.send(generate=gen(state, **options)) for state in range(1, len(endings) + 1)]
    return numbers, [first, *lengths]


def pages_of(server: Server) -> dict[str, int]:
    metrics = server.metrics()
    return {state: int(metrics.total("bough_kv_pages", state=state)) for state in ("used", "cached", "free")}


async def test_64_branches_of_a_long_state_compute_it_once_and_hold_a_page_or_two_each(
    server: Server, client: ProgramClient
) -> None:
    before, computed = pages_of(server), server.metrics().total("bough_prefill_tokens_total")
    endings = [f"{number} lamps" for number in range(NUM_BRANCHES)]
    numbers, lengths = await fork_and_generate(client, LONG_TEXT, endings, **GREEDY)
    for number in numbers:
        await client.result(number)
    await asyncio.to_thread(server.wait_idle)
    shared, *whole = lengths
    computed = server.metrics().total("bough_prefill_tokens_total") - computed
    own = sum(length - shared for length in whole)
    # Where two endings begin alike, the one that comes later has that from the other, as far as it is computed.
    assert shared + NUM_BRANCHES <= computed <= shared + own
    after = pages_of(server)
    assert after["used"] == 0 and sum(after.values()) == sum(before.values()), "no page is lost"
    end = max(whole) + GREEDY["max_tokens"]
    most = shared // PAGE_SIZE + NUM_BRANCHES * (-(-end // PAGE_SIZE) - shared // PAGE_SIZE)
    assert shared // PAGE_SIZE + NUM_BRANCHES <= after["cached"] - before["cached"] <= most
    # Those of a second fork compute nothing but what they add.
    computed = server.metrics().total("bough_prefill_tokens_total")
    await client.do(fork=fork(0, *range(101, 165)))
    again = [await client.send(generate=gen(state, **GREEDY)) for state in range(101, 165)]
    for number in again:
        await client.result(number)
    assert server.metrics().total("bough_prefill_tokens_total") - computed <= NUM_BRANCHES
    prompts = [encode(server, LONG_TEXT) + encode(server, ending) for ending in endings[:4]]
    assert [len(prompt) for prompt in prompts] == whole[:4]
    assert [client.text(number) for number in numbers[:4]] == said_by_plain_completions(server, prompts, **GREEDY)
    assert len({client.text(number) for number in again}) == 1
    await client.do(release=release(*range(0, 65), *range(101, 165)))
    await asyncio.to_thread(server.wait_idle)
    assert pages_of(server)["used"] == 0


async def test_choices_are_scored_alike_behind_a_long_state_and_its_branches(
    server: Server, client: ProgramClient
) -> None:
    await client.do(extend=text(0, LONG_TEXT))
    await client.do(fork=fork(0, 1))
    choices = ["The sea", "lamp", " He said nothing to anybody about it"]
    one, other = [(await client.do(select=select(state, *choices))).selected for state in (0, 1)]
    assert list(one.logprobs) == pytest.approx(list(other.logprobs), abs=1e-4)


async def test_branches_survive_the_executor_that_knew_their_state(server: Server, client: ProgramClient) -> None:
    options = GREEDY | {"max_tokens": 60}
    endings = [f"{number} storms" for number in range(8)]
    numbers, _ = await fork_and_generate(client, LONG_TEXT, endings, **options)
    for number in numbers:
        await client.begun[number].wait()
    pid = server.pid_of("executor")
    os.kill(pid, signal.SIGKILL)
    for number in numbers:
        await client.result(number)
    assert server.pid_of("executor") != pid
    later = await client.send(generate=gen(0, **GREEDY))
    await client.result(later)
    prompts = [encode(server, LONG_TEXT) + encode(server, ending) for ending in endings[::4]]
    assert [client.text(number) for number in numbers[::4]] == said_by_plain_completions(server, prompts, **options)
    assert client.text(later) == said_by_plain_completions(server, [encode(server, LONG_TEXT)], **GREEDY)[0]
    wait_until(lambda: not server.in_use(), "everything ends")
    pages = pages_of(server)
    assert pages["used"] == 0
