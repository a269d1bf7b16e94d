"""The official client, unchanged, against the real thing."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import openai
import pytest

from tests.integration.server import Server

MODEL = "bough-demo"
GREETING: list[Any] = [{"role": "user", "content": "What is 7 plus 5?"}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


@pytest.fixture
async def async_client(server: Server) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_chat_is_answered_streamed_and_not(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(model=MODEL, messages=GREETING, temperature=0)
    assert "12" in (whole.choices[0].message.content or "")
    assert whole.usage is not None
    pieces, usage = "", None
    stream = client.chat.completions.create(
        model=MODEL,
        messages=GREETING,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
    )
    for chunk in stream:
        pieces += "".join(choice.delta.content or "" for choice in chunk.choices)
        usage = chunk.usage or usage
    assert pieces == whole.choices[0].message.content
    assert usage is not None and usage.completion_tokens == whole.usage.completion_tokens


def test_a_completion_is_answered_streamed_and_not(client: openai.OpenAI) -> None:
    whole = client.completions.create(model=MODEL, prompt="Once upon", max_tokens=24, seed=3, n=2, logprobs=2)
    assert [choice.index for choice in whole.choices] == [0, 1]
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None and logprobs.token_logprobs is not None and len(logprobs.token_logprobs) == 24
    texts = ["", ""]
    for chunk in client.completions.create(model=MODEL, prompt="Once upon", max_tokens=24, seed=3, n=2, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == [choice.text for choice in whole.choices]


async def test_the_async_client_gets_the_same_streamed_and_not(async_client: openai.AsyncOpenAI) -> None:
    whole = await async_client.chat.completions.create(model=MODEL, messages=GREETING, temperature=0)
    stream = await async_client.chat.completions.create(
        model=MODEL,
        messages=GREETING,
        temperature=0,
        stream=True,
    )
    pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content


def test_a_json_schema_holds(client: openai.OpenAI) -> None:
    schema = {
        "type": "object",
        "properties": {"colour": {"enum": ["red", "blue"]}, "many": {"type": "boolean"}},
        "required": ["colour", "many"],
        "additionalProperties": False,
    }
    answer = client.chat.completions.create(
        model=MODEL,
        messages=[{"role": "user", "content": "Describe an order as JSON."}],
        temperature=0.5,
        seed=1,
        max_tokens=400,
        response_format={"type": "json_schema", "json_schema": {"name": "order", "schema": schema}},
    )
    value = json.loads(answer.choices[0].message.content or "")
    assert value["colour"] in ("red", "blue") and value["many"] in (True, False)


def test_errors_are_those_of_the_client(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="bough-demo"):
        client.completions.create(model="gpt-9", prompt="Hi")
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=MODEL, prompt="Hi", temperature=-1)
    assert caught.value.param == "temperature"


def test_the_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]
