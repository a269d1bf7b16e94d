"""The official client, unchanged, against a gateway on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import openai
import pytest
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from tests.gateway.conftest import Deployment

T = TypeVar("T")


@pytest.fixture
async def client(deployment: Deployment) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{deployment.url}/v1", api_key="any", max_retries=0) as client:
        yield client


async def in_thread(deployment: Deployment, use: Callable[[openai.OpenAI], T]) -> T:
    def run() -> T:
        with openai.OpenAI(base_url=f"{deployment.url}/v1", api_key="any", max_retries=0) as client:
            return use(client)

    return await asyncio.to_thread(run)


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


async def test_a_chat_comes_back_whole(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=user("hello"))
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer.model == "tiny"
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].message.content == "echo of hello"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5
    assert answer.usage.completion_tokens == 13
    assert answer.usage.total_tokens == 18
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 2


async def test_a_streamed_chat_has_role_text_end_and_usage_in_this_order(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="tiny", messages=user("grüße 🌳"), stream=True, stream_options={"include_usage": True}
    )
    chunks: list[ChatCompletionChunk] = [chunk async for chunk in stream]
    for chunk in chunks:
        ChatCompletionChunk.model_validate(chunk.model_dump(), strict=True)
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[0].choices[0].delta.content == ""
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "echo of grüße 🌳"
    assert [c.choices[0].finish_reason for c in chunks if c.choices] == [None] * (len(chunks) - 2) + ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 15
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_the_synchronous_client_works_streamed_and_not(deployment: Deployment) -> None:
    def use(client: openai.OpenAI) -> tuple[str | None, str]:
        whole = client.chat.completions.create(model="tiny", messages=user("a"))
        stream = client.chat.completions.create(model="tiny", messages=user("a"), stream=True)
        return whole.choices[0].message.content, "".join(c.choices[0].delta.content or "" for c in stream)

    assert await in_thread(deployment, use) == ("echo of a", "echo of a")


async def test_completions_take_each_prompt_n_times_in_order(
    deployment: Deployment, client: openai.AsyncOpenAI
) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: f"{prompt}{sibling}"
    answer = await client.completions.create(model="tiny", prompt=["x", "y"], n=2, best_of=2)
    Completion.model_validate(answer.model_dump(), strict=True)
    assert answer.object == "text_completion"
    assert answer.id.startswith("cmpl-")
    assert [(c.index, c.text) for c in answer.choices] == [(0, "x0"), (1, "x1"), (2, "y0"), (3, "y1")]
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 2
    assert answer.usage.completion_tokens == 8


@pytest.mark.parametrize("prompt", ["ab", ["ab"], [97, 98], [[97, 98]]])
async def test_a_prompt_may_be_text_or_ids(client: openai.AsyncOpenAI, prompt: Any) -> None:
    answer = await client.completions.create(model="tiny", prompt=prompt, echo=True)
    assert answer.choices[0].text == "abecho of ab"


async def test_completions_end_after_sixteen_tokens_where_nothing_is_said(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tiny", prompt="a long prompt that is echoed")
    assert answer.choices[0].text == "echo of a long p"
    assert answer.choices[0].finish_reason == "length"


async def test_siblings_of_a_stream_interleave_and_each_is_whole(
    deployment: Deployment, client: openai.AsyncOpenAI
) -> None:
    deployment.chain.backend.reply = lambda prompt, sibling: "abc"[sibling] * (10 + sibling)
    stream = await client.chat.completions.create(model="tiny", messages=user("x"), n=3, stream=True)
    texts, order = ["", "", ""], []
    async for chunk in stream:
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
            order.append(choice.index)
    assert texts == ["a" * 10, "b" * 11, "c" * 12]
    assert order != sorted(order)


async def test_log_probabilities_of_a_chat(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tiny", messages=user("é"), logprobs=True, top_logprobs=2, max_completion_tokens=9
    )
    ChatCompletion.model_validate(answer.model_dump(), strict=True)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.content is not None
    assert [entry.token for entry in logprobs.content] == list("echo of é")
    assert [entry.logprob for entry in logprobs.content] == [-0.25 * (i + 1) for i in range(9)]
    assert logprobs.content[8].bytes == [0xC3, 0xA9]
    assert [top.token for top in logprobs.content[0].top_logprobs] == ["e", "f"]
    assert logprobs.content[0].top_logprobs[1].logprob == -9999.0


async def test_log_probabilities_of_a_streamed_completion(client: openai.AsyncOpenAI) -> None:
    stream = await client.completions.create(model="tiny", prompt="a", logprobs=1, stream=True)
    tokens: list[str] = []
    offsets: list[int] = []
    async for chunk in stream:
        logprobs = chunk.choices[0].logprobs
        if logprobs is not None:
            tokens += logprobs.tokens or []
            offsets += logprobs.text_offset or []
    assert tokens == list("echo of a")
    assert offsets == list(range(9))


async def test_errors_are_the_classes_of_the_client(client: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown:
        await client.chat.completions.create(model="other", messages=user("x"))
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        await client.chat.completions.create(model="tiny", messages=user("x"), temperature=-1)
    assert bad.value.param == "temperature"


async def test_models_are_listed_and_found(client: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in client.models.list()] == ["tiny"]
    assert (await client.models.retrieve("tiny")).owned_by == "bough"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("other")


async def test_request_ids_come_back(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="tiny", messages=user("x"), extra_headers={"x-request-id": "mine-1"}
    )
    assert answer._request_id == "mine-1"
    assert answer.id == "chatcmpl-mine-1"


async def test_extensions_reach_the_scheduler(deployment: Deployment, client: openai.AsyncOpenAI) -> None:
    await client.chat.completions.create(
        model="tiny",
        messages=user("x"),
        seed=-1,
        temperature=0,
        logit_bias={"65": 5},
        extra_body={"top_k": 3, "min_p": 0.1, "repetition_penalty": 1.5, "stop_token_ids": [7], "cache_salt": "s"},
    )
    (submission,) = deployment.chain.backend.submissions
    sampling = submission.sampling
    assert (sampling.temperature, sampling.top_k, sampling.seed) == (0, 3, (1 << 64) - 1)
    assert sampling.top_p == pytest.approx(0.9), "generation_config.json says so"
    assert sampling.logit_bias == ((65, 5.0),)
    assert sampling.stop_token_ids == (7,)
    assert len(submission.cache_namespace) == 32
    assert sampling.max_tokens == 255, "what is left of the context"


async def test_a_stop_string_ends_the_text(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="tiny", messages=user("one two"), stop=["two", "zzz"])
    assert answer.choices[0].message.content == "echo of one "
    assert answer.choices[0].finish_reason == "stop"


async def test_token_ids_come_back_where_asked_for(client: openai.AsyncOpenAI) -> None:
    answer = await client.completions.create(model="tiny", prompt="ab", extra_body={"return_token_ids": True})
    choice = answer.choices[0].model_dump()
    assert choice["prompt_token_ids"] == [97, 98]
    assert choice["token_ids"] == [ord(c) for c in "echo of ab"]
