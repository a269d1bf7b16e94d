"""Programs on a server with OpenAI's API: what is sent for each kind of server, and what comes back."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import pytest
from pydantic import BaseModel

from bough.client import InvalidRequestError, RetryPolicy
from bough.lang import (
    AsyncState,
    ExpressionError,
    OpenAI,
    Result,
    State,
    UnsupportedError,
    assistant,
    function,
    gen,
    select,
    user,
)
from bough.lang.expressions import Addable
from tests.client.server import Reply, Request, ScriptedServer, error_reply, events, json_reply

Flavour = Literal["bough", "vllm", "sglang", "openai"]


class City(BaseModel):
    name: str


def piece(text: str, *, index: int = 0, finish_reason: str | None = None, is_chat: bool = False) -> dict[str, Any]:
    choice: dict[str, Any] = {"index": index, "finish_reason": finish_reason}
    return {"choices": [choice | ({"delta": {"content": text}} if is_chat else {"text": text})]}


def answer(request: Request) -> Reply:
    """Streams `one two`, or says which models there are."""
    if request.path == "/v1/models":
        return json_reply({"data": [{"id": "served"}]})
    is_chat = request.path == "/v1/chat/completions"
    last = piece(" two", finish_reason="length", is_chat=is_chat)
    usage = {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}
    return events(piece("one", is_chat=is_chat), last, usage)


def add(added: Addable, backend: OpenAI, **defaults: Any) -> Result[None]:
    """Run a program that adds something."""

    @function
    def program(s: State) -> None:
        s += added

    return program.run(backend=backend, **defaults)


def bodies(server: ScriptedServer) -> list[dict[str, Any]]:
    return [request.body for request in server.requests if request.method == "POST"]


def test_plain_text_goes_to_completions_and_streams_back() -> None:
    with ScriptedServer(answer) as server:
        result = add("Say: " + gen("x", stop="z", top_k=4) + "; " + gen("y"), OpenAI(server.url), temperature=0.0)
    assert result.text() == "Say: one two; one two"
    meta = result.meta("x")
    assert (meta.finish_reason, meta.usage.prompt_tokens, meta.usage.completion_tokens) == ("length", 3, 2)
    first, second = bodies(server)
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    assert first == {"prompt": "Say: ", "max_tokens": 128, "stop": ["z"], "top_k": 4, "temperature": 0.0, **stream}
    assert second == {"prompt": "Say: one two; ", "max_tokens": 128, "temperature": 0.0, **stream}


def test_a_chat_goes_to_chats_and_goes_on_with_a_turn_that_has_begun() -> None:
    with ScriptedServer(answer) as server:
        result = add(user("Say") + assistant(gen("x") + ", and " + gen("y", logprobs=3)), OpenAI(server.url))
    assert result["x"] == "one two" and result.messages()[-1]["content"] == "one two, and one two"
    first, second = bodies(server)
    assert server.requests[0].path == "/v1/chat/completions"
    question = {"role": "user", "content": "Say"}
    assert first["messages"] == [question] and "continue_final_message" not in first
    assert second["messages"] == [question, {"role": "assistant", "content": "one two, and "}]
    assert second["continue_final_message"] is True and second["add_generation_prompt"] is False
    assert second["logprobs"] is True and second["top_logprobs"] == 3


def test_several_continuations_are_told_apart() -> None:
    def both(_: Request) -> Reply:
        return events(*(piece(text, index=index) for index, text in ((1, "b"), (0, "a"), (1, "B"), (0, "A"))))

    with ScriptedServer(both) as server:
        assert add(gen("x", n=2), OpenAI(server.url))["x"] == ["aA", "bB"]


SCHEMA = City.model_json_schema()
OPENAI_SCHEMA = {"type": "json_schema", "json_schema": {"name": "output", "schema": SCHEMA, "strict": True}}


@pytest.mark.parametrize(
    ("flavour", "call", "fields"),
    [
        ("bough", gen(regex="a+"), {"regex": "a+"}),
        ("bough", gen(ebnf="root ::= x"), {"ebnf": "root ::= x"}),
        ("bough", gen(json_schema=SCHEMA), {"response_format": OPENAI_SCHEMA}),
        ("vllm", gen(regex="a+"), {"structured_outputs": {"regex": "a+"}}),
        ("vllm", gen(ebnf="root ::= x"), {"structured_outputs": {"grammar": "root ::= x"}}),
        ("vllm", gen(json_schema=SCHEMA), {"structured_outputs": {"json": SCHEMA}}),
        ("sglang", gen(regex="a+"), {"regex": "a+"}),
        ("sglang", user("x") + assistant(gen(json_schema=SCHEMA)), {"response_format": OPENAI_SCHEMA}),
        ("openai", user("x") + assistant(gen(json_schema=SCHEMA)), {"response_format": OPENAI_SCHEMA}),
        ("openai", user("x") + assistant(gen(max_tokens=5)), {"max_completion_tokens": 5}),
    ],
)
def test_constraints_are_sent_by_the_names_of_the_server(
    flavour: Flavour, call: Addable, fields: dict[str, Any]
) -> None:
    with ScriptedServer(answer) as server:
        add(call, OpenAI(server.url, flavour=flavour))
    (body,) = bodies(server)
    assert fields.items() <= body.items()
    assert body.get("model") == (None if flavour == "bough" else "served")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (gen(regex="a+"), "regex: a server of flavour 'openai' has none in completions"),
        (gen(top_k=4), "top_k: a server of flavour 'openai' does not know it"),
        (user("x") + assistant("Well, " + gen()), "does not go on with a turn that has begun"),
        (select("x", ["a", "b"]), "cannot score texts over its API: have it generate"),
    ],
)
def test_what_a_server_does_not_take_is_refused_and_not_left_out(call: Addable, message: str) -> None:
    with ScriptedServer(answer) as server, pytest.raises(UnsupportedError, match=message):
        add(call, OpenAI(server.url, flavour="openai"))
    assert bodies(server) == []


def test_a_backend_for_one_kind_of_calls_refuses_the_other() -> None:
    with ScriptedServer(answer) as server:
        with pytest.raises(UnsupportedError, match="for completions, so that a program must be plain text"):
            add(user("x") + assistant(gen()), OpenAI(server.url, mode="completions"))
        with pytest.raises(UnsupportedError, match="for chat, so that a program must be turns"):
            add(gen(), OpenAI(server.url, mode="chat"))
    with pytest.raises(ExpressionError, match="flavour: got 'mine', accepted are bough, vllm, sglang, openai"):
        OpenAI("http://127.0.0.1:1", flavour="mine")  # type: ignore[arg-type]
    with pytest.raises(ExpressionError, match="mode: got 'x'"):
        OpenAI("http://127.0.0.1:1", mode="x")  # type: ignore[arg-type]


ECHOED: dict[str, list[tuple[str, float | None]]] = {
    "Is it? ": [("Is", None), (" it", -1.0), ("? ", -1.0)],
    # The first token of this choice has eaten the end of the prompt.
    "Is it? yes": [("Is", None), (" it", -1.0), ("?", -1.0), (" yes", -4.0)],
    "Is it? no, no": [("Is", None), (" it", -1.0), ("? ", -1.0), ("no", -2.0), (",", -0.1), (" no", -0.3)],
    "yes": [("yes", -5.5)],
    "no, no": [("no", None), (",", -0.2), (" no", -0.2)],
}


def echo(request: Request) -> Reply:
    if request.method == "GET":
        return answer(request)
    choices = []
    for index, prompt in enumerate(request.body["prompt"]):
        tokens, logprobs = zip(*ECHOED[prompt], strict=True)
        choices.append({"index": index, "text": prompt, "logprobs": {"tokens": tokens, "token_logprobs": logprobs}})
    return json_reply({"choices": choices[::-1]})


@pytest.mark.parametrize("flavour", ["vllm", "sglang"])
def test_choices_are_scored_by_the_echo_of_prompts(flavour: Flavour) -> None:
    with ScriptedServer(echo) as server:
        result = add("Is it? " + select("x", ["yes", "no, no"]), OpenAI(server.url, flavour=flavour))
    assert result["x"] == "no, no" and result.text() == "Is it? no, no"
    best, other = result.meta("x").scores
    assert best.score == pytest.approx(-0.8) and best.logprobs.tokens == ("no", ",", " no")
    # What the choice has changed of the prompt's end counts for it.
    assert other.logprobs.tokens == ("?", " yes") and other.score == pytest.approx(-2.5)
    (body,) = bodies(server)
    assert (body["echo"], body["max_tokens"], body["prompt"][0]) == (True, 0, "Is it? ")


def test_choices_are_scored_with_nothing_before_them_too() -> None:
    with ScriptedServer(echo) as server:
        backend = OpenAI(server.url, flavour="vllm")
        call = select("x", ["yes", "no, no"], choices_method="unconditional_likelihood_normalized")
        result = add("Is it? " + call, backend)
    assert result["x"] == "yes"
    scores = {entry.choice: entry.score for entry in result.meta("x").scores}
    assert scores == {"yes": pytest.approx(-2.5 + 5.5), "no, no": pytest.approx(-0.8 + 0.2)}


def test_choices_are_scored_by_generating_exactly_them() -> None:
    def force(request: Request) -> Reply:
        (choice,) = request.body["choice"]
        logprob = -1.0 if choice == "no" else -2.0
        tokens = [*choice, "<end>"]
        content = [{"token": token, "logprob": logprob} for token in tokens]
        choices = [{"index": 0, "message": {"content": choice}, "logprobs": {"content": content}}]
        return json_reply({"choices": choices})

    with ScriptedServer(force) as server:
        result = add(user("Is it?") + assistant(select("x", ["yes", "no"])), OpenAI(server.url))
    assert result["x"] == "no"
    assert [entry.logprobs.tokens for entry in result.meta("x").scores] == [("n", "o"), ("y", "e", "s")]
    assert sorted(body["choice"] for body in bodies(server)) == [["no"], ["yes"]]


def test_scores_that_a_server_cannot_tell_are_refused() -> None:
    call = select("x", ["a", "b"], choices_method="unconditional_likelihood_normalized")
    with ScriptedServer(echo) as server:
        with pytest.raises(UnsupportedError, match="with nothing before them: take another choices_method"):
            add("Is it? " + call, OpenAI(server.url))
        with pytest.raises(UnsupportedError, match="in a chat: write the program in plain text"):
            add(user("Is it?") + assistant(call), OpenAI(server.url, flavour="vllm"))


def test_an_error_of_the_server_tells_the_line_of_the_program() -> None:
    def refuse(_: Request) -> Reply:
        return error_reply(400, "temperature: got -1.0, accepted is a finite number from 0", param="temperature")

    with ScriptedServer(refuse) as server, pytest.raises(InvalidRequestError, match="temperature: got") as caught:
        add("Say: " + gen("x", temperature=-1.0), OpenAI(server.url))
    assert caught.value.field == "temperature"
    assert any("test_openai.py" in note and "s += added" in note for note in caught.value.__notes__)


def test_a_server_that_is_full_is_asked_again() -> None:
    replies = [error_reply(429, "full", retry_after="0")]

    def at_first_full(request: Request) -> Reply:
        return replies.pop() if replies else answer(request)

    with ScriptedServer(at_first_full) as server:
        backend = OpenAI(server.url, retry=RetryPolicy(first_delay_s=0.001))
        assert add(gen("x"), backend)["x"] == "one two"


def test_calls_of_one_run_share_connections_and_close_them() -> None:
    with ScriptedServer(answer) as server:
        add(gen() + gen() + gen(), OpenAI(server.url))
        assert server.num_connections == 1


async def test_runs_at_the_same_time_share_connections_and_the_models_name() -> None:
    @function
    async def program(s: AsyncState) -> None:
        s += gen("x")

    with ScriptedServer(answer) as server:
        backend = OpenAI(server.url, flavour="vllm")
        await program.arun(backend=backend)
        await asyncio.gather(*(program.arun(backend=backend) for _ in range(3)))
    assert backend._connections == {}
