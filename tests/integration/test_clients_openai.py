"""Typed models, tools and the streaming helper of the official client, against the real thing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from pydantic import BaseModel, Field

from tests.integration.server import Server

MODEL = "bough-demo"
MAX_TOKENS = 300


class Order(BaseModel):
    """An order in a bakery."""

    product: Literal["bread", "cake", "roll"]
    pieces: int = Field(ge=1, le=99)
    gift: bool


class Add(BaseModel):
    """Add two numbers."""

    first: int = Field(ge=0, le=999)
    second: int = Field(ge=0, le=999)


class Weather(BaseModel):
    """Look up the weather."""

    city: Literal["Bern", "Oslo"]


ADD, WEATHER = openai.pydantic_function_tool(Add), openai.pydantic_function_tool(Weather)
TOOLS: dict[str, type[BaseModel]] = {"Add": Add, "Weather": Weather}
NAMED: Any = {"type": "function", "function": {"name": "Add"}}


def user(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as made:
        yield made


def test_a_typed_answer_is_parsed_streamed_and_not(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {
        "model": MODEL,
        "messages": user("Describe an order as JSON."),
        "response_format": Order,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.7,
        "seed": 4,
    }
    answer = client.chat.completions.parse(**wanted)
    assert isinstance(answer.choices[0].message.parsed, Order)
    with client.chat.completions.stream(**wanted) as stream:
        snapshots = [event.parsed for event in stream if event.type == "content.delta"]
        final = stream.get_final_completion()
    assert len(snapshots) > 3
    assert final.choices[0].message.parsed == answer.choices[0].message.parsed


@pytest.mark.parametrize(("choice", "finish"), [("required", "tool_calls"), (NAMED, "stop")])
def test_typed_tools_are_called_streamed_and_not(client: openai.OpenAI, choice: Any, finish: str) -> None:
    wanted: dict[str, Any] = {
        "model": MODEL,
        "messages": user("What is 7 plus 5?"),
        "tools": [ADD, WEATHER],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": MAX_TOKENS,
        "temperature": 0.7,
        "seed": 4,
    }
    answer = client.chat.completions.parse(**wanted).choices[0]
    assert answer.finish_reason == finish
    assert answer.message.content is None
    (call,) = answer.message.tool_calls or []
    assert isinstance(call.function.parsed_arguments, Add if choice is NAMED else Add | Weather)
    with client.chat.completions.stream(**wanted) as stream:
        deltas = [e for e in stream if e.type == "tool_calls.function.arguments.delta"]
        final = stream.get_final_completion().choices[0]
    assert "".join(event.arguments_delta for event in deltas) == call.function.arguments
    assert len(deltas) > 3
    (streamed,) = final.message.tool_calls or []
    assert streamed.function.parsed_arguments == call.function.parsed_arguments
    assert streamed.id.startswith("call_")
    assert final.finish_reason == finish


def test_several_calls_come_in_one_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL,
        messages=user("What is 7 plus 5?"),
        tools=[ADD, WEATHER],
        tool_choice="required",
        max_tokens=MAX_TOKENS,
        temperature=1.5,
        n=8,
        seed=1,
        stream=True,
    )
    calls: dict[tuple[int, int], list[str]] = {}
    finished: dict[int, str] = {}
    for chunk in stream:
        for choice in chunk.choices:
            for part in choice.delta.tool_calls or ():
                assert part.function is not None
                call = calls.setdefault((choice.index, part.index), [part.function.name or "", ""])
                call[1] += part.function.arguments or ""
            if choice.finish_reason:
                finished[choice.index] = choice.finish_reason
    assert len(calls) > 8, "some answers call more than once"
    assert set(finished) == set(range(8))
    last = {index: max(number for i, number in calls if i == index) for index in finished}
    for (index, number), (name, arguments) in calls.items():
        if finished[index] == "tool_calls" or number < last[index]:
            TOOLS[name].model_validate_json(arguments)


def test_the_result_of_a_call_goes_back_to_the_model(client: openai.OpenAI) -> None:
    messages = user("What is 7 plus 5?")
    first = client.chat.completions.create(
        model=MODEL, messages=messages, tools=[ADD], tool_choice=NAMED, max_tokens=MAX_TOKENS, temperature=0
    )
    message = first.choices[0].message
    assert message.tool_calls
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "12"}]
    answer = client.chat.completions.create(model=MODEL, messages=messages, tools=[ADD], max_tokens=60)
    assert answer.choices[0].finish_reason in ("stop", "length", "tool_calls")


def test_a_typed_answer_beside_tools_is_one_or_the_other(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=user("Describe an order as JSON."),
        tools=[WEATHER],
        response_format={"type": "json_schema", "json_schema": {"name": "order", "schema": Order.model_json_schema()}},
        n=8,
        seed=2,
        max_tokens=MAX_TOKENS,
        temperature=0.9,
    )
    whole = [choice for choice in answer.choices if choice.finish_reason != "length"]
    assert len(whole) >= 4
    for choice in whole:
        calls = choice.message.tool_calls or []
        assert (choice.finish_reason == "tool_calls") == bool(calls)
        if not calls:
            Order.model_validate_json(choice.message.content or "")
        for call in calls:
            assert isinstance(call, ChatCompletionMessageFunctionToolCall)
            Weather.model_validate_json(call.function.arguments)


def test_thoughts_come_before_what_a_schema_holds(client: openai.OpenAI) -> None:
    wanted: dict[str, Any] = {
        "model": MODEL,
        "messages": user("What is 7 plus 5?"),
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "order", "schema": Order.model_json_schema(), "strict": True},
        },
        "extra_body": {"chat_template_kwargs": {"enable_thinking": True}},
    }
    answer = client.chat.completions.create(**wanted)
    message = answer.choices[0].message
    thoughts = message.model_dump()["reasoning_content"]
    assert "7 + 5" in thoughts
    Order.model_validate_json(message.content or "")
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    counted = answer.usage.completion_tokens_details.reasoning_tokens
    assert counted is not None and 10 < counted < answer.usage.completion_tokens
    streamed = {"reasoning_content": "", "content": ""}
    for chunk in client.chat.completions.create(stream=True, **wanted):
        for name in streamed:
            streamed[name] += chunk.choices[0].delta.model_dump().get(name) or ""
    assert streamed == {"reasoning_content": thoughts, "content": message.content}


def test_a_budget_ends_the_thoughts_and_the_answer_still_holds(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=MODEL,
        messages=user("What is 7 plus 5?"),
        max_tokens=MAX_TOKENS,
        temperature=0,
        extra_body={
            "chat_template_kwargs": {"enable_thinking": True},
            "thinking_budget": 10,
            "choice": ["twelve", "thirteen"],
        },
    )
    message = answer.choices[0].message
    assert message.content in ("twelve", "thirteen")
    assert message.model_dump()["reasoning_content"]
    assert answer.usage is not None and answer.usage.completion_tokens_details is not None
    # The ids that close the thoughts come on top.
    assert 10 <= (answer.usage.completion_tokens_details.reasoning_tokens or 0) <= 14


TAG = {
    "type": "structural_tag",
    "format": {"type": "tag", "begin": "<a>", "content": {"type": "regex", "pattern": "[0-9]{2}"}, "end": "</a>"},
}


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ({"choice": ["oak"]}, "oak"),
        ({"regex": "(ab){2}"}, "abab"),
        ({"ebnf": 'root ::= "oak" tree\ntree ::= " tree"'}, "oak tree"),
        ({"guided_choice": ["oak"]}, "oak"),
        ({"structured_outputs": {"regex": "(ab){2}"}}, "abab"),
        ({"structural_tag": TAG}, None),
        ({"response_format": TAG}, None),
    ],
)
def test_extensions_constrain_chats_and_completions(
    client: openai.OpenAI, extension: dict[str, Any], expected: str | None
) -> None:
    chat = client.chat.completions.create(model=MODEL, messages=user("Hi"), max_tokens=60, extra_body=extension)
    completion = client.completions.create(model=MODEL, prompt="Hi", max_tokens=60, extra_body=extension)
    for text in (chat.choices[0].message.content or "", completion.choices[0].text):
        if expected is None:
            assert text.startswith("<a>") and text.endswith("</a>") and text[3:5].isdigit() and len(text) == 9
        else:
            assert text == expected


def test_schemas_that_are_not_strict_hold_as_well(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"a": {"const": "oak"}}, "required": ["a"], "additionalProperties": False}
    answer = client.chat.completions.create(
        model=MODEL,
        messages=user("Hi"),
        max_tokens=60,
        response_format={"type": "json_schema", "json_schema": {"name": "a", "schema": schema, "strict": False}},
    )
    assert json.loads(answer.choices[0].message.content or "") == {"a": "oak"}


def test_errors_name_the_tool(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match='"Add", accepted is a name that no other tool has'):
        client.chat.completions.create(model=MODEL, messages=user("Hi"), tools=[ADD, ADD])
