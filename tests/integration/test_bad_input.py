"""What is wrong with a request is told by field, value and what is accepted; nothing crashes or is left behind."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from bough.demo import model_dir
from tests.integration.client import Job, Outcome, open_client, stream
from tests.integration.server import Server, copy_model, wait_until

CHAT = "/v1/chat/completions"
PLAIN = "/v1/completions"
HELLO: dict[str, Any] = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
TEXT: dict[str, Any] = {"prompt": "Hello!", "max_tokens": 4}

RAISING_TEMPLATE = """{%- for message in messages -%}
{%- if message.content == 'raise' -%}{{ raise_exception('roles must take turns') }}{%- endif -%}
{%- if message.content == 'divide' -%}{{ 1 / 0 }}{%- endif -%}
{%- if message.content == 'loop' -%}
{%- for i in range(99999) -%}{%- for j in range(99999) -%}{%- endfor -%}{%- endfor -%}
{%- endif -%}
{{ message.content }}
{%- endfor -%}"""


@pytest.fixture(autouse=True)
def _nothing_crashes(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test: the server is ready, idle, and wrote no traceback."""
    server: Server = request.getfixturevalue("small" if "small" in request.fixturenames else "server")
    before = len(server.lines)
    pids = [server.pid_of(name) for name in ("gateway", "tokenizer", "detokenizer", "scheduler", "executor", "grammar")]
    yield
    server.wait_idle()
    assert server.is_ready()
    assert "Traceback" not in "\n".join(server.lines[before:])
    assert pids == [
        server.pid_of(name) for name in ("gateway", "tokenizer", "detokenizer", "scheduler", "executor", "grammar")
    ]


@pytest.mark.parametrize(
    ("path", "body", "status", "field", "words"),
    [
        (CHAT, {**HELLO, "model": "gpt-9"}, 404, "model", ("gpt-9", "bough-demo")),
        (PLAIN, {**TEXT, "prompt": "word " * 6000}, 400, "prompt", ("tokens", "4096")),
        (PLAIN, {**TEXT, "max_tokens": 5000}, 400, "max_tokens", ("5000", "4096")),
        (CHAT, {**HELLO, "max_tokens": 0}, 400, "max_tokens", ("0", "from 1")),
        (CHAT, {**HELLO, "temperature": -0.5}, 400, "temperature", ("-0.5", "from 0")),
        (CHAT, {**HELLO, "top_p": -1}, 400, "top_p", ("-1", "at most 1")),
        (CHAT, {**HELLO, "n": -3}, 400, "n", ("-3", "from 1 to 128")),
        (CHAT, {**HELLO, "presence_penalty": 3}, 400, "presence_penalty", ("3", "-2 to 2")),
        (CHAT, {**HELLO, "temperature": "warm"}, 400, "temperature", ("warm", "number")),
        (CHAT, {**HELLO, "stop": 7}, 400, "stop", ("7", "string")),
        (CHAT, {**HELLO, "messages": "Hello!"}, 400, "messages", ("Hello!", "list")),
        (CHAT, {**HELLO, "tempratur": 1}, 400, "tempratur", ("temperature",)),
        (PLAIN, {**TEXT, "prompt": [99999]}, 400, "prompt", ("99999", "token ids")),
        (PLAIN, {**TEXT, "logit_bias": {"x": 1}}, 400, "logit_bias", ("x", "token ids")),
        (PLAIN, {**TEXT, "regex": "(unclosed"}, 400, "regex", ()),
    ],
)
def test_a_refusal_names_field_value_and_what_is_accepted(
    server: Server, path: str, body: dict[str, Any], status: int, field: str, words: tuple[str, ...]
) -> None:
    _check(server.post(path, **body), status, field, *words)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity"])
def test_numbers_that_json_does_not_have_are_refused(server: Server, number: str) -> None:
    body = json.dumps(TEXT)[:-1] + f', "temperature": {number}}}'
    _check(server.client.post(PLAIN, content=body), 400, None, "body", "JSON")


def test_invalid_utf8_is_refused(server: Server) -> None:
    _check(server.client.post(PLAIN, content=b'{"prompt": "\xff\xfe", "max_tokens": 4}'), 400, None, "body")


def test_half_a_surrogate_pair_is_refused(server: Server) -> None:
    _check(server.client.post(PLAIN, content=rb'{"prompt": "\ud83d", "max_tokens": 4}'), 400, None, "body")


def test_a_body_of_100_mb_is_refused_and_others_are_served_meanwhile(server: Server) -> None:
    response = server.client.post(PLAIN, content=b'{"prompt": "' + b"a" * 100_000_000 + b'"}')
    _check(response, 413, "body", "max_body_mb")
    assert server.post(PLAIN, **TEXT).status_code == 200


def test_an_expression_that_nothing_matches_is_the_clients_error(server: Server) -> None:
    body = {"model": "bough-demo", "prompt": "Once", "regex": "[^\\s\\S]", "max_tokens": 6}
    response = httpx.post(f"{server.url}/v1/completions", json=body, timeout=30)
    assert response.status_code == 400
    message = response.json()["error"]["message"]
    assert message == "regex: cannot be satisfied: no text matches it"


@pytest.mark.parametrize(
    ("schema", "word"),
    [({"type": "strange"}, "strange"), ({"$ref": "#/nowhere"}, "nowhere"), ({"type": "string", "pattern": "("}, "")],
)
def test_a_schema_that_cannot_compile_is_refused(server: Server, schema: dict[str, Any], word: str) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "bad", "schema": schema}}
    _check(server.post(CHAT, **HELLO, response_format=wanted), 400, "response_format", word)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a template that raises, and room for two requests."""
    model = copy_model(model_dir(), tmp_path_factory.mktemp("models") / "raising", chat_template=RAISING_TEMPLATE)
    with Server(str(model), "--max-queue", "2", "--served-model-name", "small") as running:
        yield running


@pytest.mark.parametrize(("content", "words"), [("raise", ("roles must take turns",)), ("divide", ()), ("loop", ())])
def test_a_template_that_raises_is_the_clients_error(small: Server, content: str, words: tuple[str, ...]) -> None:
    messages = [{"role": "user", "content": content}]
    _check(small.post(CHAT, messages=messages, max_tokens=4), 400, "messages", *words)
    assert small.post(CHAT, **HELLO).status_code == 200


def test_a_full_queue_answers_429_and_says_when_to_come_again(small: Server) -> None:
    long = Job(kind="long", path=PLAIN, body={"prompt": "Hello", "max_tokens": 3000, "ignore_eos": True})

    async def fill() -> tuple[list[Outcome], httpx.Response]:
        async with open_client(small.url) as client:
            running = [asyncio.create_task(stream(client, long)) for _ in range(2)]
            await asyncio.to_thread(_wait_for_rows, small, 2)
            refused = await client.post(PLAIN, json=TEXT)
            return list(await asyncio.gather(*running)), refused

    outcomes, refused = asyncio.run(fill())
    assert refused.status_code == 429, refused.text
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"]["code"] == "queue_full"
    assert "max_queue" in refused.json()["error"]["message"]
    assert [(outcome.error, outcome.completion_tokens) for outcome in outcomes] == [("", 3000)] * 2
    small.wait_idle()
    assert small.post(PLAIN, **TEXT).status_code == 200


def _wait_for_rows(server: Server, number: int) -> None:
    wait_until(lambda: server.metrics().total("bough_batch_rows") == number, f"{number} rows run")


def _check(response: httpx.Response, status: int, field: str | None, *words: str) -> None:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["type"] in ("invalid_request_error", "not_found_error")
    if field is not None:
        assert error["param"] == field, error
        assert field in error["message"], error
    for word in words:
        assert word in error["message"], error
