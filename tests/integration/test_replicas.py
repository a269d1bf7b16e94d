"""Several gateways on one port and several detokenizers behind them: shared, killed, and no stream altered."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.cli import health
from tests.integration.paced_executor import paced_executor
from tests.integration.server import Server, wait_until

NUM_STREAMS = 16
NUM_TOKENS = 300

FAIR_SHARE = range(NUM_STREAMS // 4, 3 * NUM_STREAMS // 4 + 1)
"""Streams of one of two gateways. A gateway that is not given a processor when its turn comes loses it after
milliseconds, so on a busy machine the halves differ; tests/gateway/test_acceptor.py has the rule itself."""


@dataclass
class Stream:
    """What one client has got."""

    text: str = ""
    events: int = 0
    whole: bool = False


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    # The executor's tokens are a function of their positions: all streams have one text, however often they are cut.
    arguments = ("--replicas", "gateway=2,detokenizer=2,tokenizer=2")
    with paced_executor(300) as address, Server("--executor-address", address, *arguments) as server:
        yield server


@pytest.fixture
def server(running: Server) -> Server:
    wait_until(lambda: len(running.pids_of("gateway")) == len(running.pids_of("detokenizer")) == 2, "both copies")
    running.wait_ready()
    return running


async def _read(server: Server, stream: Stream, news: Callable[[], None]) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    fields = {"prompt": "Once upon a time", "max_tokens": NUM_TOKENS, "stream": True, "ignore_eos": True}
    body = json.dumps(fields)
    writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    try:
        while line := await reader.readline():
            if line.startswith(b"data: [DONE]"):
                stream.whole = True
                return
            if line.startswith(b"data: "):
                stream.text += json.loads(line[6:])["choices"][0]["text"]
                stream.events += 1
                news()
    except ConnectionError:
        return  # its gateway was killed
    finally:
        writer.close()


async def _streams(server: Server, disturb: Callable[[], None] = lambda: None) -> list[Stream]:
    """Run all streams; `disturb` is called when each of them is under way."""
    streams = [Stream() for _ in range(NUM_STREAMS)]
    waiting = True

    def news() -> None:
        nonlocal waiting
        if waiting and all(stream.events > 20 for stream in streams):
            waiting = False
            disturb()

    await asyncio.gather(*(_read(server, stream, news) for stream in streams))
    assert not waiting, "some streams never began"
    return streams


def _expected(server: Server) -> str:
    stream = Stream()
    asyncio.run(_read(server, stream, lambda: None))
    assert stream.whole
    return stream.text


def _active_calls(server: Server) -> Counter[str]:
    """Calls under way by the gateway's process id."""
    samples = [s for s in server.metrics().samples if s.name == "bough_gateway_active_calls"]
    return Counter({s.labels["instance"].rpartition(":")[2]: int(s.value) for s in samples})


def test_both_gateways_serve_the_port_and_one_scrape_shows_both(server: Server) -> None:
    pids = {str(pid) for pid in server.pids_of("gateway")}
    seen: list[Counter[str]] = []

    async def run() -> list[Stream]:
        running = asyncio.create_task(_streams(server))
        while not seen or sum(seen[-1].values()) < NUM_STREAMS:
            seen.append(await asyncio.to_thread(_active_calls, server))
        return await running

    assert all(stream.whole for stream in asyncio.run(run()))
    assert set(seen[-1]) == pids
    assert all(count in FAIR_SHARE for count in seen[-1].values()), seen[-1]


def test_each_copy_answers_for_its_own_health(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    folder = next(line for line in server.log.splitlines() if "sockets in" in line).split()[-1]
    assert health.run([folder, "--ready"]) == 0
    shown = capsys.readouterr().out
    for name in ("gateway-1", "gateway-2", "detokenizer-1", "detokenizer-2", "tokenizer-2", "scheduler", "grammar"):
        assert f"{name} SERVING" in " ".join(shown.split())


def test_killing_a_gateway_leaves_the_streams_of_the_other_alone_and_it_comes_back(server: Server) -> None:
    expected, before = _expected(server), server.pids_of("gateway")
    streams = asyncio.run(_streams(server, lambda: os.kill(before[0], signal.SIGKILL)))
    whole = [stream for stream in streams if stream.whole]
    assert len(whole) in FAIR_SHARE
    assert {stream.text for stream in whole} == {expected}
    assert all(expected.startswith(stream.text) for stream in streams)
    # The other one takes whatever comes, while this one starts again and after that.
    assert _expected(server) == expected
    wait_until(lambda: len(server.pids_of("gateway")) == 2, "the gateway is started again")
    after = server.pids_of("gateway")
    assert before[1] in after and before[0] not in after

    def both_have_served() -> bool:
        # A gateway has this series from its first call on.
        return {stream.text for stream in asyncio.run(_streams(server))} == {expected} and set(
            _active_calls(server)
        ) == {str(pid) for pid in after}

    wait_until(both_have_served, "and serves")


def test_killing_a_detokenizer_alters_no_stream(server: Server) -> None:
    expected, before = _expected(server), server.pids_of("detokenizer")
    live = [s.value for s in server.metrics().samples if s.name == "bough_detokenizer_live_requests"]
    assert len(live) == 2
    streams = asyncio.run(_streams(server, lambda: os.kill(before[1], signal.SIGKILL)))
    assert all(stream.whole for stream in streams)
    assert {stream.text for stream in streams} == {expected}
    assert "requests leave detokenizer" in server.log, "nothing ran on the copy that was killed"


def test_the_public_grpc_port_is_shared_too(server: Server) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
