"""Programs of model calls on the demo model, beside an interpreter that sends a whole prompt for each call."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bough.client import AsyncClient, Client
from bough.lang import AsyncState, Bough, ChoicesMethod, OpenAI, State, assistant, function, gen, select, user
from bough.lang.backends.base import Message
from tests.helpers.repository import ROOT
from tests.integration.server import Server
from tests.lang.reference import (
    AddText,
    DoGen,
    DoSelect,
    DoTurn,
    Op,
    Outcome,
    build_async,
    chat_programs,
    interpret,
    plain_programs,
)

# Only by gRPC are choices scored with nothing before them, and greedy selection is the other test's.
METHODS = (ChoicesMethod.TOKEN_LENGTH_NORMALIZED,)
PLAIN = plain_programs(METHODS).map(lambda ops: (AddText("Once upon a time"), *ops))
CHATS = chat_programs(METHODS).map(lambda ops: (DoTurn("user", (AddText("What is 7 plus 5?"),)), *ops))


class WholePrompts:
    """Plain completions and chats, one call at a time."""

    def __init__(self, server: Server) -> None:
        self._server = server

    async def complete(self, messages: tuple[Message, ...] | None, text: str, op: DoGen) -> str:
        choice = self._ask(messages, text, max_tokens=op.max_tokens, stop=op.stop)
        return str(choice["text"] if messages is None else choice["message"]["content"])

    async def choose(self, messages: tuple[Message, ...] | None, text: str, op: DoSelect) -> str:
        scores = {choice: self._mean(messages, text, choice) for choice in op.choices}
        return max(scores, key=lambda choice: scores[choice])

    def _mean(self, messages: tuple[Message, ...] | None, text: str, choice: str) -> float:
        found = self._ask(messages, text, choice=[choice], max_tokens=64, logprobs=0 if messages is None else True)
        if messages is None:
            logprobs = found["logprobs"]["token_logprobs"]
        else:
            logprobs = [entry["logprob"] for entry in found["logprobs"]["content"]]
        return float(sum(logprobs[:-1]) / len(logprobs[:-1]))

    def _ask(self, messages: tuple[Message, ...] | None, text: str, **options: Any) -> dict[str, Any]:
        options = {name: value for name, value in options.items() if value is not None} | {"temperature": 0}
        if messages is None:
            response = self._server.post("/v1/completions", prompt=text, **options)
        else:
            turns = [{"role": message.role, "content": message.content} for message in messages]
            if text:
                turns.append({"role": "assistant", "content": text})
                options |= {"continue_final_message": True, "add_generation_prompt": False}
            response = self._server.post("/v1/chat/completions", messages=turns, **options)
        assert response.status_code == 200, response.text
        choice: dict[str, Any] = response.json()["choices"][0]
        return choice


@given(st.one_of(PLAIN, CHATS))
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_programs_give_what_whole_prompts_give(server: Server, program: tuple[Op, ...]) -> None:
    result = function(build_async).run(program, backend=OpenAI(server.url), temperature=0.0)
    found = Outcome({name: result[name] for name in result}, result.text(), result.messages())
    assert found == asyncio.run(interpret(program, WholePrompts(server)))


async def test_a_program_that_is_left_early_leaves_nothing_running_on_the_server(server: Server) -> None:
    @function
    async def program(s: AsyncState) -> None:
        s += "Once upon a time"
        async with s.fork(4) as group:
            group += gen("x", max_tokens=1000, ignore_eos=True)
            async for _ in group[0].text_iter("x"):
                break

    await program.arun(backend=OpenAI(server.url))
    server.wait_idle()


def test_values_are_of_the_types_that_were_asked_for(server: Server) -> None:
    @function
    def program(s: State) -> None:
        s += user("What is 7 plus 5?")
        with s.assistant():
            s += "The sum is " + gen("sum", dtype=int) + "." + select("odd", [" Odd.", " Even."])

    result = program.run(backend=Bough(server.url, grpc_port=server.grpc_port), temperature=0.0)
    assert isinstance(result["sum"], int)
    assert sum(len(score.logprobs.tokens) for score in result.meta("odd").scores) >= 2


async def test_the_clients_speak_the_api_of_the_server(server: Server) -> None:
    with Client(server.url) as client:
        assert client.is_healthy() and client.is_ready()
        (model,) = client.models()
        tokens = client.tokenize("Once upon")
        assert client.detokenize(tokens.ids) == "Once upon" and model.max_model_len == tokens.max_model_len
        whole = client.complete("Once upon", max_tokens=8, temperature=0.0)
        pieces = list(client.stream_completion(tokens.ids, max_tokens=8, temperature=0.0))
        assert "".join(piece.text for piece in pieces) == whole.text
        assert pieces[-1].usage is not None and pieces[-1].usage.completion_tokens == 8
    async with AsyncClient(server.url) as client_async:
        chat = await client_async.chat("What is 7 plus 5?", temperature=0.0, logprobs=True, top_logprobs=2)
        assert "12" in chat.content and len(chat.choices[0].logprobs) == chat.usage.completion_tokens
        stream = client_async.stream_chat("What is 7 plus 5?", temperature=0.0)
        assert "".join([piece.content async for piece in stream]) == chat.content


def test_the_programs_of_both_kinds_of_functions_agree(server: Server) -> None:
    @function
    def plain(s: State) -> None:
        s += user("Say hello.") + assistant(gen("x", max_tokens=8))

    @function
    async def awaited(s: AsyncState) -> None:
        s += user("Say hello.") + assistant(gen("x", max_tokens=8))

    backend = OpenAI(server.url)
    results = [program.run(backend=backend, temperature=0.0)["x"] for program in (plain, awaited)]
    assert results[0] == results[1] != ""


def test_the_tutorials_snippet_of_the_client_runs(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "lang.md").read_text()
    (source,) = re.findall(r"<!-- needs a server -->\n```python\n(.*?)```", page, flags=re.DOTALL)
    exec(compile(source.replace("http://127.0.0.1:8000", server.url), "lang.md", "exec"), {})
    assert "12" in capsys.readouterr().out
