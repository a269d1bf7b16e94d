"""Detokenizers that die, clients that go, queues that are full: nothing is lost, doubled or left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.gateway.conftest import Deploy, Deployment

CHAT = "/v1/chat/completions"
TEXT = "The quick brown fox jumps over the lazy dog, and 🌳 grow. " * 4


def chat(**more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "x"}], **more}


async def events(response: httpx.Response) -> AsyncIterator[dict[str, Any] | None]:
    """The events of a stream, None for [DONE]."""
    async for line in response.aiter_lines():
        if line:
            data = line.removeprefix("data: ")
            yield None if data == "[DONE]" else json.loads(data)


def text_of(event: dict[str, Any] | None) -> str:
    return "" if event is None else "".join(choice["delta"].get("content", "") for choice in event["choices"])


async def manual(deploy: Deploy, **settings: Any) -> Deployment:
    deployment = await deploy(**settings)
    deployment.chain.backend.automatic = False
    deployment.chain.backend.at_once = 5
    deployment.chain.backend.reply = lambda prompt, sibling: TEXT
    return deployment


@pytest.mark.parametrize("overlap", [0, 7])
async def test_a_detokenizer_that_restarts_in_mid_stream_changes_nothing(deploy: Deploy, overlap: int) -> None:
    deployment = await manual(deploy)
    backend, (detokenizer,) = deployment.chain.backend, deployment.chain.detokenizers
    detokenizer.overlap = overlap
    text = ""
    async with deployment.client.stream("POST", CHAT, json=chat(stream=True)) as response:
        reading = events(response)
        backend.advance(45)
        while len(text) < 50:
            text += text_of(await anext(reading))
        await deployment.chain.kill("detokenizer0")
        backend.advance(20)
        await deployment.chain.start_service("detokenizer0")
        while len(text) < 70:
            text += text_of(await anext(reading))
        backend.automatic = True
        backend.notify()
        rest = [event async for event in reading]
    assert text + "".join(map(text_of, rest)) == TEXT
    assert rest[-1] is None
    (resumed,) = detokenizer.resumed
    assert resumed[1:] == (50, 50)
    await backend.wait_for(lambda: all(run.released for run in backend.runs.values()))


async def test_requests_of_a_dead_copy_go_on_at_another_one_at_once(deploy: Deploy) -> None:
    deployment = await manual(deploy, num_detokenizers=2)
    backend, copies = deployment.chain.backend, deployment.chain.detokenizers
    calls = [asyncio.create_task(deployment.client.post(CHAT, json=chat(n=2))) for _ in range(4)]
    await backend.wait_for(lambda: len(backend.runs) == 8)
    assert [copy.num_submits for copy in copies] == [2, 2], "new calls go where the fewest are"
    backend.advance(30)
    await deployment.chain.kill("detokenizer0")
    backend.automatic = True
    backend.notify()
    for call in calls:
        choices = (await call).json()["choices"]
        assert [choice["message"]["content"] for choice in choices] == [TEXT, TEXT]
    assert len(copies[1].resumed) == 4


async def test_a_submission_lost_with_its_stream_is_sent_again_under_the_same_ids(deploy: Deploy) -> None:
    deployment = await manual(deploy)
    backend, (detokenizer,) = deployment.chain.backend, deployment.chain.detokenizers
    backend.automatic = True
    backend.ignore_submits = 1
    call = asyncio.create_task(deployment.client.post(CHAT, json=chat(n=2, seed=5)))
    await backend.wait_for(lambda: detokenizer.num_submits == 1)
    await deployment.chain.kill("detokenizer0")
    await deployment.chain.start_service("detokenizer0")
    answer = await call
    assert [choice["message"]["content"] for choice in answer.json()["choices"]] == [TEXT, TEXT]
    (submission,) = backend.submissions
    assert submission.sampling.seed == 5
    assert {entry[0] for entry in detokenizer.resumed} == set(submission.requests)


async def test_without_any_detokenizer_a_stream_ends_with_an_error_after_the_grace(deploy: Deploy) -> None:
    deployment = await manual(deploy, orphan_grace_s=0.2)
    async with deployment.client.stream("POST", CHAT, json=chat(stream=True)) as response:
        reading = events(response)
        await anext(reading)
        await deployment.chain.kill("detokenizer0")
        last = [event async for event in reading][-1]
    assert last is not None, "no [DONE] where the stream is not whole"
    assert last["error"]["type"] == "service_unavailable_error"
    assert "detokenizer" in last["error"]["message"]


async def test_without_any_detokenizer_a_new_call_gets_503_after_the_grace(deploy: Deploy) -> None:
    deployment = await manual(deploy, orphan_grace_s=0.1)
    await deployment.chain.kill("detokenizer0")
    response = await deployment.client.post(CHAT, json=chat(stream=True))
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"


async def test_a_call_outlives_the_restart_of_the_tokenizer(deployment: Deployment) -> None:
    await deployment.chain.kill("tokenizer")
    call = asyncio.create_task(deployment.client.post(CHAT, json=chat()))
    ready = await deployment.client.get("/ready")
    assert "tokenizer" in ready.json()["down"]
    await deployment.chain.start_service("tokenizer")
    assert (await call).status_code == 200


@pytest.mark.parametrize("stream", [True, False])
async def test_a_full_queue_is_429_with_when_to_try_again(deployment: Deployment, stream: bool) -> None:
    deployment.chain.backend.rejection = (8, "the queue is full: 2048 requests wait", 2500)
    response = await deployment.client.post(CHAT, json=chat(stream=stream))
    assert response.status_code == 429
    assert response.headers["retry-after"] == "3"
    assert response.json()["error"]["code"] == "queue_full"
    assert response.json()["error"]["type"] == "rate_limit_error"


async def test_a_client_that_leaves_a_stream_cancels_it(deploy: Deploy) -> None:
    deployment = await manual(deploy)
    backend = deployment.chain.backend
    async with deployment.client.stream("POST", CHAT, json=chat(stream=True, n=2)) as response:
        await anext(events(response))
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))


async def test_a_client_that_does_not_wait_for_its_answer_cancels_it(deploy: Deploy) -> None:
    deployment = await manual(deploy)
    backend = deployment.chain.backend
    call = asyncio.create_task(deployment.client.post(CHAT, json=chat()))
    await backend.wait_for(lambda: bool(backend.runs))
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))


async def test_what_was_delivered_is_released_and_not_cancelled(deployment: Deployment) -> None:
    backend = deployment.chain.backend
    await deployment.client.post(CHAT, json=chat(n=3))
    await deployment.client.post(CHAT, json=chat(n=3, stream=True))
    await backend.wait_for(lambda: len(backend.runs) == 6 and all(run.released for run in backend.runs.values()))
    assert not any(run.cancelled for run in backend.runs.values())


async def test_a_drain_finishes_what_runs_and_takes_nothing_new(deploy: Deploy) -> None:
    deployment = await manual(deploy)
    backend = deployment.chain.backend
    async with deployment.client.stream("POST", CHAT, json=chat(stream=True)) as response:
        reading = events(response)
        text = text_of(await anext(reading))
        draining = asyncio.create_task(deployment.service.drain(20))
        await asyncio.sleep(0)
        with pytest.raises(httpx.ConnectError):
            await deployment.client.post(CHAT, json=chat())
        assert not draining.done()
        backend.automatic = True
        backend.notify()
        text += "".join([text_of(event) async for event in reading])
    assert text == TEXT
    await draining


async def test_a_stop_without_time_ends_streams_with_an_error_and_cancels_behind(deploy: Deploy) -> None:
    deployment = await manual(deploy)
    backend = deployment.chain.backend
    async with deployment.client.stream("POST", CHAT, json=chat(stream=True)) as response:
        reading = events(response)
        await anext(reading)
        stopping = asyncio.create_task(deployment.service.stop())
        last = [event async for event in reading][-1]
    assert last is not None
    assert "shutting down" in last["error"]["message"]
    await stopping
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))
