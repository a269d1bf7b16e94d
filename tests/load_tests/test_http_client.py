from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.load.http_client import Answer, AnswerReader, Target, exchange
from tests.load_tests.fake_server import HEAD, FakeServer, event, stream_of, text_event


def read(pieces: list[bytes], *, stop_after: int | None = None) -> tuple[Answer, int]:
    """The answer in these pieces, the clock one second further at each; and how often its end was told."""
    answer, ends = Answer(sent_s=0.0), []
    reader = AnswerReader(answer, lambda: ends.append(1), stop_after=stop_after)
    for now_s, piece in enumerate(pieces):
        reader.feed(piece, float(now_s))
    reader.end()
    return answer, len(ends)


def whole(status: str, body: bytes) -> bytes:
    return f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


@given(st.sets(st.integers(1, 700), max_size=12))
def test_a_stream_reads_the_same_in_any_split(cuts: set[int]) -> None:
    data = stream_of(["Hel", "lo", " wörld"], completion_tokens=4)
    edges = [0, *sorted(cut for cut in cuts if cut < len(data)), len(data)]
    answer, ends = read([data[a:b] for a, b in itertools.pairwise(edges)])
    assert answer.error is None and ends == 1
    assert len(answer.text_times_s) == 3
    assert answer.usage["completion_tokens"] == 4


def test_only_events_with_text_count_and_at_the_time_they_came() -> None:
    role = event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
    word = event({"choices": [{"delta": {"content": "word"}}]})
    thought = event({"choices": [{"delta": {"reasoning_content": "hm"}}]})
    end = event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
    head = HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
    answer, _ = read([head, role, thought, word, end, b": a comment\n\n", b"data: [DONE]\n\n"])
    assert answer.text_times_s == [2.0, 3.0]
    assert answer.error is None


def test_a_server_that_ends_its_lines_with_cr_lf_is_understood() -> None:
    head = HEAD.replace(b"transfer-encoding: chunked\r\n", b"")
    lines = (text_event("a") + text_event("b") + b"data: [DONE]\n\n").replace(b"\n", b"\r\n")
    answer, _ = read([head + lines[:25], lines[25:]])
    assert len(answer.text_times_s) == 2 and answer.error is None


def test_usage_of_an_answer_in_one_piece_is_read() -> None:
    data = whole("200 OK", json.dumps({"usage": {"completion_tokens": 7}}).encode())
    answer, ends = read([data[:40], data[40:]])
    assert (answer.usage, answer.error, ends) == ({"completion_tokens": 7}, None, 1)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (whole("429 Too Many Requests", b"{}"), "http 429"),
        (whole("503 Service Unavailable", b"not json"), "http 503"),
        (b"", "cut off: no answer"),
        (whole("200 OK", b'{"a": 1}')[:-3], "cut off: body"),
        (stream_of(["a"], completion_tokens=1, last=b""), "cut off: no [DONE]"),
        (stream_of(["a"], completion_tokens=1)[:-120], "cut off: no [DONE]"),
        (HEAD + b"zz\r\n", "bad answer: ValueError"),
        (stream_of([], completion_tokens=0, last=event({"error": {"type": "overloaded"}})), "error event: overloaded"),
    ],
)
def test_what_goes_wrong_has_a_kind(data: bytes, kind: str) -> None:
    answer, ends = read([data] if data else [])
    assert (answer.error, ends) == (kind, 1)


def test_a_client_that_loses_interest_goes_after_so_many_chunks() -> None:
    answer, ends = read([stream_of("abcdef", completion_tokens=6)], stop_after=2)
    assert (len(answer.text_times_s), answer.error, ends) == (2, None, 1)


async def test_a_request_reaches_a_server_and_its_answer_comes_back() -> None:
    async with FakeServer(stream_of(["a", "b"], completion_tokens=2)) as server:
        answer = await exchange(server.target, server.target.post("/v1/completions", {"prompt": "ö"}), timeout_s=10)
    assert server.bodies == [{"prompt": "ö"}]
    assert answer.error is None and len(answer.text_times_s) == 2
    assert answer.sent_s <= answer.text_times_s[0] <= answer.end_s


async def test_nobody_there_and_nobody_answering_are_kinds_of_errors() -> None:
    async with FakeServer(b"") as server:
        server.gate.clear()
        payload = server.target.post("/", {})
        assert (await exchange(server.target, payload, timeout_s=0.05)).error == "timeout"
        server.gate.set()
        gone = server.target
    assert (await exchange(gone, payload, timeout_s=5)).error == "connect: ConnectionRefusedError"


def test_base_urls_with_and_without_v1_mean_the_same() -> None:
    assert Target.parse("http://h:1/v1") == Target.parse("http://h:1/") == Target("h", 1, "", False)
    assert Target.parse("https://h/api/v1") == Target("h", 443, "/api", True)
    with pytest.raises(ValueError, match="http://HOST:PORT"):
        Target.parse("localhost:8000")
