"""Services killed under the load of 32 streams: clients get what they would have got undisturbed."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import grpc
import pytest

from bough.rpc.v1 import gateway_pb2, gateway_pb2_grpc
from tests.integration.chaos import KILL_AFTER_EVENTS, Chaos, Report, table
from tests.integration.client import stream_all
from tests.integration.server import Server
from tests.integration.workload import streams


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> Iterator[list[Report]]:
    """Gathers the reports of this module and prints them as a table at its end."""
    gathered: list[Report] = []
    yield gathered
    capture = request.config.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print(f"\n{table(gathered)}")  # noqa: T201  # the table is what this module is for


@pytest.fixture(scope="module")
def chaos(shared_server: Server) -> Chaos:
    shared_server.wait_idle()
    return Chaos(shared_server)


@pytest.mark.parametrize("service", ["tokenizer", "grammar", "detokenizer", "executor"])
def test_killing_a_service_alters_and_loses_no_stream(
    service: str, server: Server, chaos: Chaos, reports: list[Report]
) -> None:
    report = chaos.kill(service)
    reports.append(report)
    assert report.num_streams == 40
    assert report.lost == []
    assert report.altered == []
    server.wait_idle()


def test_killing_the_scheduler_ends_streams_with_an_error_that_says_so_and_leaks_nothing(
    server: Server, chaos: Chaos, reports: list[Report]
) -> None:
    report = chaos.kill("scheduler")
    reports.append(report)
    assert report.altered == []
    assert all("was lost" in why or "not available" in why for why in report.lost), report.lost
    server.wait_idle(timeout_s=30)


def test_a_gateway_that_is_killed_shows_its_clients_an_error_and_leaves_nothing_behind(server: Server) -> None:
    events = itertools.count(1)

    def kill_once_all_are_under_way() -> None:
        if next(events) == KILL_AFTER_EVENTS:
            server.kill("gateway")

    outcomes = asyncio.run(stream_all(server.url, streams(num_tokens=2000), kill_once_all_are_under_way))
    assert next(events) > KILL_AFTER_EVENTS
    assert not any(outcome.whole for outcome in outcomes)
    server.wait_ready()
    server.wait_idle(timeout_s=30)
    assert server.post("/v1/completions", prompt="Hello", max_tokens=3).status_code == 200


def test_a_grpc_client_goes_on_where_it_was_when_its_gateway_was_killed(server: Server) -> None:
    request = gateway_pb2.GenerateRequest(text="Once upon a time", max_tokens=900, seed=7, temperature=0.9)
    request.ignore_eos = True
    with _inference(server) as stub:
        undisturbed = list(stub.Generate(request))
    pieces: list[gateway_pb2.GenerateResponse] = []
    with _inference(server) as stub, pytest.raises(grpc.RpcError):
        for piece in stub.Generate(request):
            pieces.append(piece)
            if len(pieces) == 20:
                server.kill("gateway")
    server.wait_ready()
    resume = gateway_pb2.ResumeGenerateRequest(
        generation=pieces[-1].generation,
        positions=[pieces[-1].next_position],
        text_offsets=[len(_text(pieces))],
    )
    with _inference(server) as stub:
        pieces += stub.ResumeGenerate(resume)
    assert _text(pieces) == _text(undisturbed)
    assert _ids(pieces) == _ids(undisturbed)
    assert len(_ids(pieces)) == 900


@contextmanager
def _inference(server: Server) -> Iterator[gateway_pb2_grpc.InferenceStub]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        yield gateway_pb2_grpc.InferenceStub(channel)


def _text(pieces: Iterable[gateway_pb2.GenerateResponse]) -> str:
    return "".join(piece.text for piece in pieces)


def _ids(pieces: Iterable[gateway_pb2.GenerateResponse]) -> list[int]:
    return [token for piece in pieces for token in piece.token_ids]
