"""Programs in REST."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc.aio
import httpx
import pytest

from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.conftest import Deploy, Deployment
from tests.gateway.programs.client import ProgramClient, text


class Rest:
    """A program by its REST endpoints."""

    def __init__(self, client: httpx.AsyncClient, name: str) -> None:
        self.client = client
        self.name = name

    async def post(self, operation: str, **body: Any) -> httpx.Response:
        return await self.client.post(f"/v1/programs/{self.name}/{operation}", json=body)

    async def do(self, operation: str, **body: Any) -> dict[str, Any]:
        response = await self.post(operation, **body)
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer


@pytest.fixture
async def program(deployment: Deployment) -> Rest:
    deployment.chain.backend.has_eos = True
    response = await deployment.client.post("/v1/programs", json={})
    assert response.status_code == 200
    return Rest(deployment.client, response.json()["id"])


async def test_a_program_is_opened_and_deleted(deployment: Deployment) -> None:
    body = {"model": "tiny", "lease_s": 9, "cache_salt": "tenant"}
    answer = (await deployment.client.post("/v1/programs", json=body)).json()
    assert answer == {"id": answer["id"], "object": "program", "lease_s": 9, "model": "tiny"}
    assert deployment.chain.scheduler.program.lease_s == 9
    assert len(deployment.chain.scheduler.program.namespace) == 32
    path = f"/v1/programs/{answer['id']}"
    assert (await deployment.client.delete(path)).json() == {"id": answer["id"], "object": "program", "deleted": True}
    assert deployment.chain.scheduler.programs == {}
    assert (await deployment.client.delete(path)).status_code == 404


async def test_a_program_runs_call_by_call(deployment: Deployment, program: Rest) -> None:
    deployment.chain.tokenizer.bos = "^"
    assert await program.do("extend", state=0, text="ab") == {"state": 0, "length": 3}
    assert await program.do("extend", state=0, token_ids=[99]) == {"state": 0, "length": 4}
    forked = await program.do("fork", state=0, children=[1, 2])
    assert forked == {"state": 0, "length": 4, "children": [1, 2]}
    answer = await program.do("generate", state=1, max_tokens=40)
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "echo of ^abc"
    assert answer["choices"][0]["finish_reason"] == "stop"
    assert answer["usage"]["prompt_tokens"] == 4
    assert (answer["state"], answer["length"]) == (1, 16)
    assert await program.do("rollback", state=2, length=2) == {"state": 2, "length": 2}
    assert await program.do("join", state=0, children=[1]) == {"state": 0, "length": 16}
    assert await program.do("release", states=[2]) == {"states": [2]}
    assert deployment.chain.scheduler.program.texts == {0: "^abcecho of ^abc"}


async def test_the_server_draws_numbers_where_only_how_many_is_said(deployment: Deployment, program: Rest) -> None:
    children = (await program.do("fork", state=0, n=3))["children"]
    assert len(set(children)) == 3
    assert all(0 < child <= 1 << 52 for child in children)
    assert set(deployment.chain.scheduler.program.states) == {0, *children}


async def test_a_stream_ends_with_what_has_become_of_the_state(deployment: Deployment, program: Rest) -> None:
    await program.do("extend", state=0, text="ab")
    body = {"state": 0, "max_tokens": 40, "stream": True, "stream_options": {"include_usage": True}}
    response = await program.post("generate", **body)
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert events[-1] == "[DONE]"
    parsed = [json.loads(event) for event in events[:-1]]
    assert parsed[-1] == {"object": "program.state", "state": 0, "length": 12}
    assert parsed[-2]["usage"]["completion_tokens"] == 11
    assert "".join(event["choices"][0]["text"] for event in parsed[:-2]) == "echo of ab"
    assert deployment.chain.scheduler.program.texts == {0: "abecho of ab"}


async def test_choices_are_scored(program: Rest) -> None:
    await program.do("extend", state=0, text="is it")
    answer = await program.do("select", state=0, choices=["yes", "no"])
    yes, no = answer["choices"]
    assert yes == {
        "index": 0,
        "text": "yes",
        "token_ids": [121, 101, 115],
        "logprobs": [-0.25, -0.5, -0.75],
        "unconditional_logprobs": None,
    }
    assert no["text"] == "no"
    answer = await program.do("select", state=0, choices=["yes", "no"], unconditional=True)
    assert answer["choices"][1]["unconditional_logprobs"] == [-0.25, -0.5]


async def test_messages_of_a_chat_are_added(deployment: Deployment, program: Rest) -> None:
    user = {"role": "user", "content": "hi"}
    await program.do("extend", state=0, messages=[user], open_turn=True)
    assert deployment.chain.tokenizer.chats[-1].add_generation_prompt
    assert deployment.chain.scheduler.program.texts == {0: "hi"}
    assistant = {"role": "assistant", "content": "ho"}
    answer = await program.do("extend", state=0, messages=[user, assistant], num_known=1)
    assert answer == {"state": 0, "length": 5}
    assert deployment.chain.scheduler.program.texts == {0: "hi|ho"}


@pytest.mark.parametrize(
    ("operation", "body", "status", "said"),
    [
        ("extend", {"state": 9, "text": "x"}, 404, "state: 9"),
        ("extend", {"state": 0, "text": "x", "txt": 1}, 400, "txt: unknown field with value 1; did you mean text?"),
        ("extend", {"text": "x"}, 400, "state: is missing"),
        ("extend", {"state": -1, "text": "x"}, 400, "state: got -1"),
        ("extend", {"state": 0}, 400, "exactly one of text, token_ids and messages"),
        ("extend", {"state": 0, "text": "x", "token_ids": [1]}, 400, "exactly one of"),
        ("extend", {"state": 0, "text": "x", "num_known": 1}, 400, "num_known: got 1, accepted is null"),
        ("extend", {"state": 0, "token_ids": [70_000]}, 400, "token_ids: got 70000"),
        ("extend", {"state": 0, "messages": [{"role": 1}]}, 400, "messages[0].role"),
        ("extend", {"state": 0, "messages": [{"role": "user"}], "num_known": 2}, 400, "num_known: got 2"),
        ("generate", {"state": 0, "prompt": "x"}, 400, "prompt: unknown field"),
        ("generate", {"state": 0, "cache_salt": "x"}, 400, "cache_salt"),
        ("generate", {"state": 0, "model": "gpt"}, 404, "'gpt'"),
        ("generate", {"state": 0, "max_tokens": 999}, 400, "max_tokens: got 999, accepted are at most 254"),
        ("generate", {"state": 0, "top_p": 0}, 400, "top_p"),
        ("generate", {"state": 9}, 404, "state: 9"),
        ("select", {"state": 0, "choices": ["a"]}, 400, "2 to 128 texts"),
        ("fork", {"state": 0, "children": [1]}, 409, "state 1 exists"),
        ("fork", {"state": 0}, 400, "exactly one of the two"),
        ("fork", {"state": 0, "n": 0}, 400, "n: got 0, accepted is an integer from 1"),
        ("join", {"state": 1, "children": [0]}, 409, "did not branch off"),
        ("rollback", {"state": 0, "length": 3}, 400, "length: got 3"),
        ("release", {"states": [5]}, 404, "state: 5"),
    ],
)
async def test_what_is_wrong_is_said(
    deployment: Deployment, program: Rest, operation: str, body: dict[str, Any], status: int, said: str
) -> None:
    await program.do("fork", state=0, children=[1])
    await program.do("extend", state=0, text="ab")
    response = await program.post(operation, **body)
    assert response.status_code == status, response.text
    assert said in response.json()["error"]["message"]
    assert deployment.chain.scheduler.program.texts == {0: "ab", 1: ""}


async def test_what_is_past_the_context_has_its_code(program: Rest) -> None:
    response = await program.post("extend", state=0, text="x" * 257)
    assert response.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", ["rubbish", "A" * 22 + "8A", "%20"])
async def test_a_program_nobody_knows_is_not_found(deployment: Deployment, name: str) -> None:
    for method, path in (("POST", f"/v1/programs/{name}/extend"), ("DELETE", f"/v1/programs/{name}")):
        response = await deployment.client.request(method, path, json={"state": 0, "text": "x"})
        assert response.status_code == 404
        assert response.json()["error"]["param"] == "program"


async def test_a_state_changed_by_another_call_meanwhile_is_a_conflict(deployment: Deployment, program: Rest) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await program.do("extend", state=0, text="ab")
    generating = asyncio.create_task(program.post("generate", state=0))
    await backend.wait_for(lambda: bool(backend.runs))
    await program.do("extend", state=0, text="c")
    backend.automatic = True
    backend.notify()
    assert (await generating).status_code == 409
    assert deployment.chain.scheduler.program.texts == {0: "abc"}


async def test_a_call_that_takes_longer_than_the_lease_renews_it(deployment: Deployment) -> None:
    backend, scheduler = deployment.chain.backend, deployment.chain.scheduler
    opened = (await deployment.client.post("/v1/programs", json={"lease_s": 1})).json()
    program = Rest(deployment.client, opened["id"])
    backend.automatic = False
    await program.do("extend", state=0, text="ab")
    generating = asyncio.create_task(program.post("generate", state=0))
    await backend.wait_for(lambda: bool(backend.runs))
    before = len(scheduler.requests)
    await scheduler.wait_for_requests(before + 2)
    assert not any(request.orders for request in scheduler.requests[before:])
    backend.automatic = True
    backend.notify()
    assert (await generating).status_code == 200


async def test_a_client_that_leaves_cancels_its_generation(deployment: Deployment, program: Rest) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    await program.do("extend", state=0, text="ab")
    generating = asyncio.create_task(program.post("generate", state=0))
    await backend.wait_for(lambda: bool(backend.runs))
    generating.cancel()
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))
    assert deployment.chain.scheduler.program.texts == {0: "ab"}


async def test_rest_and_grpc_work_on_the_same_programs(deployment: Deployment, program: Rest) -> None:
    await program.do("extend", state=0, text="ab")
    async with (
        grpc.aio.insecure_channel(deployment.grpc_address) as channel,
        ProgramClient(channel, pb.OpenProgram(program=program.name)) as client,
    ):
        assert (await client.do(extend=text(0, "c"))).changed.length == 3
    assert await program.do("extend", state=0, text="d") == {"state": 0, "length": 4}


async def test_calls_are_counted_without_the_names_of_programs(deployment: Deployment, program: Rest) -> None:
    await program.do("extend", state=0, text="ab")
    await program.post("fork", state=9, children=[1])
    metrics = (await deployment.client.get("/metrics")).text
    assert 'route="POST /v1/programs/{program}/extend"' in metrics
    assert "bough_gateway_program_calls_total{" in metrics
    assert 'kind="fork"' in metrics and 'status="NOT_FOUND"' in metrics
    assert program.name not in metrics


async def test_the_key_is_asked_for(deploy: Deploy) -> None:
    deployment = await deploy(api_key="secret")
    assert (await deployment.client.post("/v1/programs", json={})).status_code == 401
    assert (await deployment.client.delete("/v1/programs/x")).status_code == 401
