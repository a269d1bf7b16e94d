"""Both clients: what they send, what they make of answers, which errors they raise, and when they try again."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable
from typing import Any

import pytest

from bough.client import (
    AnswerError,
    AsyncClient,
    Client,
    ConnectionFailedError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    RetryPolicy,
    StreamBrokenError,
    TimedOutError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
)
from tests.client.server import Answer, Reply, Request, ScriptedServer, error_reply, events, json_reply

Use = Callable[[Any], Any]
Ask = Callable[..., Any]

USAGE = {
    "prompt_tokens": 5,
    "completion_tokens": 2,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def ask_blocking(url: str, use: Use, **options: Any) -> Any:
    with Client(url, **options) as client:
        result = use(client)
        return list(result) if inspect.isgenerator(result) else result


def ask_async(url: str, use: Use, **options: Any) -> Any:
    async def ask() -> Any:
        async with AsyncClient(url, **options) as client:
            result = use(client)
            return [piece async for piece in result] if inspect.isasyncgen(result) else await result

    return asyncio.run(ask())


@pytest.fixture(params=[ask_blocking, ask_async], ids=["blocking", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """Does something with a client of either kind, and gives the result; of a stream, as a list."""
    found: Ask = request.param
    return found


def completion_body(*texts: str) -> dict[str, Any]:
    choices = [{"index": i, "text": text, "finish_reason": "stop", "logprobs": None} for i, text in enumerate(texts)]
    return {"id": "cmpl-1", "model": "m", "choices": choices, "usage": USAGE}


def always(reply: Reply) -> Answer:
    return lambda _: reply


def test_a_completion_is_asked_for_and_read(ask: Ask) -> None:
    body = completion_body("one", "two")
    body["choices"][0]["logprobs"] = {
        "tokens": ["o", "ne"],
        "token_logprobs": [None, -0.5],
        "top_logprobs": [None, {"ne": -0.5, "ff": -1.5}],
    }
    with ScriptedServer(always(json_reply(body))) as server:
        found = ask(server.url, lambda client: client.complete("Say", model="m", n=2, top_k=5, stop=["x"]))
    assert (found.text, [choice.text for choice in found.choices]) == ("one", ["one", "two"])
    assert found.choices[0].logprobs[1].top == (("ne", -0.5), ("ff", -1.5))
    assert (found.usage.prompt_tokens, found.usage.cached_tokens, found.usage.reasoning_tokens) == (5, 4, 1)
    (sent,) = server.requests
    assert (sent.method, sent.path) == ("POST", "/v1/completions")
    assert sent.body == {"prompt": "Say", "model": "m", "n": 2, "top_k": 5, "stop": ["x"]}


def test_a_chat_is_asked_for_and_read(ask: Ask) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at": 1}'}}
    message = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [call]}
    logprobs = {"content": [{"token": "a", "logprob": -1.0, "top_logprobs": [{"token": "b", "logprob": -2.0}]}]}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": logprobs}
    body = {"id": "chatcmpl-1", "model": "m", "choices": [choice], "usage": USAGE}
    with ScriptedServer(always(json_reply(body))) as server:
        found = ask(server.url, lambda client: client.chat("Hello", temperature=0))
    assert found.content == "" and found.message == message
    answer = found.choices[0]
    assert (answer.reasoning, answer.finish_reason, answer.logprobs[0].top) == ("hm", "tool_calls", (("b", -2.0),))
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("look", '{"at": 1}')]
    assert server.requests[0].body == {"messages": [{"role": "user", "content": "Hello"}], "temperature": 0}


def test_a_completion_is_streamed(ask: Ask) -> None:
    pieces = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("a\u2028", "b\x85")]
    with ScriptedServer(always(events(*pieces, {"choices": [], "usage": USAGE}))) as server:
        found = ask(server.url, lambda client: client.stream_completion("Say"))
    assert [piece.text for piece in found] == ["a\u2028", "b\x85", ""]
    assert found[-1].usage.completion_tokens == 2
    assert server.requests[0].body["stream"] is True


def test_a_chat_is_streamed(ask: Ask) -> None:
    deltas = [{"role": "assistant", "content": ""}, {"reasoning_content": "hm"}, {"content": "Hi"}]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": delta, "finish_reason": None} for delta in deltas]
    tool = {"index": 0, "id": "c", "function": {"name": "look", "arguments": ""}}
    choices.append({"index": 0, "delta": {"tool_calls": [tool]}, "finish_reason": "tool_calls"})
    with ScriptedServer(always(events(*({"choices": [choice]} for choice in choices)))) as server:
        found = ask(server.url, lambda client: client.stream_chat([{"role": "user", "content": "Hello"}]))
    assert [(piece.reasoning, piece.content) for piece in found] == [("", ""), ("hm", ""), ("", "Hi"), ("", "")]
    assert found[-1].tool_calls[0].name == "look" and found[-1].finish_reason == "tool_calls"


def test_events_are_read_from_bytes_in_any_portions(ask: Ask) -> None:
    whole = b"".join(events({"choices": [{"index": 0, "text": "é😀", "finish_reason": None}]}).pieces or ())
    reply = Reply(pieces=[bytes([byte]) for byte in b": a comment\r\n\r\n" + whole.replace(b"\n", b"\r\n")])
    with ScriptedServer(always(reply)) as server:
        assert [piece.text for piece in ask(server.url, lambda client: client.stream_completion("Say"))] == ["é😀"]


def test_tokens_models_and_health(ask: Ask) -> None:
    def answer(request: Request) -> Reply:
        bodies: dict[str, Any] = {
            "/v1/tokenize": {"tokens": [1, 2], "count": 2, "max_model_len": 64},
            "/v1/detokenize": {"prompt": "ab"},
            "/v1/models": {"data": [{"id": "m", "max_model_len": 64}, {"id": "other"}]},
            "/health": {"status": "ok"},
        }
        return error_reply(503, "down") if request.path == "/ready" else json_reply(bodies[request.path])

    with ScriptedServer(answer) as server:
        tokens = ask(server.url, lambda client: client.tokenize("ab"))
        assert (tokens.ids, len(tokens), tokens.max_model_len) == ((1, 2), 2, 64)
        assert ask(server.url, lambda client: client.tokenize([{"role": "user", "content": "ab"}])).ids == (1, 2)
        assert ask(server.url, lambda client: client.detokenize([1, 2])) == "ab"
        models = ask(server.url, lambda client: client.models())
        assert [(model.id, model.max_model_len) for model in models] == [("m", 64), ("other", None)]
        assert ask(server.url, lambda client: client.is_healthy()) is True
        assert ask(server.url, lambda client: client.is_ready()) is False
    assert server.requests[1].body == {"messages": [{"role": "user", "content": "ab"}]}
    assert server.requests[-1].path == "/ready" and len(server.requests) == 6


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, InvalidRequestError),
        (422, InvalidRequestError),
        (401, UnauthorizedError),
        (403, UnauthorizedError),
        (404, NotFoundError),
        (413, TooLargeError),
        (429, OverloadedError),
        (500, InternalError),
        (503, UnavailableError),
    ],
)
def test_a_status_is_an_error_with_the_servers_message(ask: Ask, status: int, kind: type[Exception]) -> None:
    reply = error_reply(status, "n: got 0", param="n", retry_after_ms="1500", x_request_id="req-7")
    with (
        ScriptedServer(always(reply)) as server,
        pytest.raises(kind, match="n: got 0") as caught,
    ):
        ask(server.url, lambda client: client.complete("Say"), retry=RetryPolicy(max_retries=0))
    assert caught.value.__notes__ == [f"POST /v1/completions: HTTP {status}, request req-7"]
    if isinstance(caught.value, InvalidRequestError):
        assert caught.value.field == "n"
    if isinstance(caught.value, OverloadedError):
        assert caught.value.retry_after_s == 1.5


@pytest.mark.parametrize("body", [b"<html>no</html>", b'{"detail": "odd"}', b'"odd"', b"[1]", b""])
def test_an_error_in_another_shape_is_an_error_too(ask: Ask, body: bytes) -> None:
    with ScriptedServer(always(Reply(status=400, body=body))) as server, pytest.raises(InvalidRequestError):
        ask(server.url, lambda client: client.complete("Say"))


@pytest.mark.parametrize("body", [b"no JSON", b"[]", b'{"choices": [{}]}'])
def test_an_answer_that_is_none_is_an_error_that_shows_it(ask: Ask, body: bytes) -> None:
    with ScriptedServer(always(Reply(body=body))) as server, pytest.raises(AnswerError, match="POST /v1/completions"):
        ask(server.url, lambda client: client.complete("Say"))


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_stream_that_breaks_is_an_error(ask: Ask, is_cut: bool) -> None:
    piece = b'data: {"choices": []}\n\n'
    with (
        ScriptedServer(always(Reply(pieces=[piece], is_cut=is_cut))) as server,
        pytest.raises(StreamBrokenError, match="POST /v1/completions"),
    ):
        ask(server.url, lambda client: client.stream_completion("Say"))
    assert len(server.requests) == 1


def test_an_error_within_a_stream_is_raised(ask: Ask) -> None:
    error = {"error": {"message": "gone", "type": "service_unavailable_error"}}
    with ScriptedServer(always(events(error, done=False))) as server, pytest.raises(UnavailableError, match="gone"):
        ask(server.url, lambda client: client.stream_chat("Hello"))


def test_a_call_that_the_server_did_not_take_is_made_again(ask: Ask) -> None:
    replies = [error_reply(429, "full", retry_after="0"), error_reply(503, "down"), json_reply(completion_body("it"))]

    with ScriptedServer(lambda _: replies.pop(0)) as server:
        policy = RetryPolicy(first_delay_s=0.001)
        assert ask(server.url, lambda client: client.complete("Say"), retry=policy).text == "it"
        assert len(server.requests) == 3
        replies += [error_reply(503, "down")] * 2
        with pytest.raises(UnavailableError):
            ask(
                server.url, lambda client: client.complete("Say"), retry=RetryPolicy(max_retries=1, first_delay_s=0.001)
            )
    assert len(server.requests) == 5


def test_an_answer_that_is_refused_for_good_is_not_asked_for_again(ask: Ask) -> None:
    with ScriptedServer(always(error_reply(400, "no"))) as server, pytest.raises(InvalidRequestError):
        ask(server.url, lambda client: client.complete("Say"))
    assert len(server.requests) == 1


def test_retries_wait_longer_each_time_and_as_long_as_the_server_wants() -> None:
    policy = RetryPolicy(max_retries=3, first_delay_s=1, max_delay_s=30)
    down = UnavailableError("down")
    assert [policy.delay_s(down, retries) for retries in range(4)] == [1, 2, 4, None]
    assert policy.delay_s(OverloadedError("full", retry_after_s=7), 0) == 7
    assert policy.delay_s(OverloadedError("full", retry_after_s=31), 0) is None
    for error in (TimedOutError("late"), StreamBrokenError("cut"), InvalidRequestError("no")):
        assert policy.delay_s(error, 0) is None


def test_a_server_that_is_not_there_is_named(ask: Ask) -> None:
    with ScriptedServer(always(Reply())) as server:
        url = server.url
    with pytest.raises(ConnectionFailedError, match="GET /v1/models"):
        ask(url, lambda client: client.models(), retry=RetryPolicy(max_retries=0))
    assert ask(url, lambda client: client.is_healthy()) is False


def test_a_server_that_says_nothing_is_given_up(ask: Ask) -> None:
    ended = threading.Event()

    def never(_: Request) -> Reply:
        ended.wait(60)
        return Reply()

    with ScriptedServer(never) as server:
        with pytest.raises(TimedOutError, match="POST /v1/completions"):
            ask(server.url, lambda client: client.complete("Say"), timeout_s=0.01)
        ended.set()
    assert len(server.requests) == 1


def test_the_key_is_sent_and_not_shown(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(always(json_reply({"data": []}))) as server:
        ask(server.url + "/v1/", lambda client: client.models(), api_key="s3cret")
        monkeypatch.setenv("BOUGH_API_KEY", "other")
        monkeypatch.setenv("BOUGH_URL", server.url)
        ask(None, lambda client: client.models())
    assert [request.headers["authorization"] for request in server.requests] == ["Bearer s3cret", "Bearer other"]
    assert [request.path for request in server.requests] == ["/v1/models", "/v1/models"]


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError, match="base_url: got"):
        Client(url)
