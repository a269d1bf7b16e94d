"""A client for the OpenAI API that costs little: HTTP/1.1 parsed where the bytes arrive, a clock reading per read.

General clients take several hundred microseconds of CPU a streamed request and tens a chunk, on the cores that the
server under test needs. This one knows the two shapes of answers there are: server-sent events and one JSON body.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import urlsplit

_TEXT_FIELDS = ("content", "reasoning_content", "text")


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    prefix: str
    is_tls: bool
    api_key: str | None = None

    @classmethod
    def parse(cls, base_url: str, api_key: str | None = None) -> Target:
        """From `http://HOST:PORT`, with or without a path such as `/v1`. ValueError for anything else."""
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"base URL {base_url!r}: http://HOST:PORT or https://HOST:PORT is accepted")
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        return cls(parts.hostname, port, prefix, parts.scheme == "https", api_key)

    def post(self, path: str, body: dict[str, Any]) -> bytes:
        """The bytes of a POST."""
        return self._head("POST", path) + _with_length(json.dumps(body).encode())

    def get(self, path: str) -> bytes:
        """The bytes of a GET."""
        return self._head("GET", path) + b"\r\n"

    def _head(self, method: str, path: str) -> bytes:
        key = f"Authorization: Bearer {self.api_key}\r\n" if self.api_key else ""
        return f"{method} {self.prefix}{path} HTTP/1.1\r\nHost: {self.host}\r\nConnection: close\r\n{key}".encode()


def _with_length(body: bytes) -> bytes:
    return b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body


@dataclass(slots=True)
class Answer:
    """What came back, and when. Times are seconds of the monotonic clock."""

    sent_s: float
    end_s: float = 0.0
    text_times_s: list[float] = field(default_factory=list)
    """Arrival of each event that carried text; empty for an answer in one piece."""
    usage: dict[str, Any] = field(default_factory=dict)
    status: int = 0
    body: bytes = b""
    error: str | None = None
    """Kind of the error, from a small set, so that errors can be counted; None when all went well."""


async def exchange(target: Target, payload: bytes, *, timeout_s: float, stop_after: int | None = None) -> Answer:
    """Make one request on a connection of its own.

    Args:
        target: Where to.
        payload: The whole request, as `Target.post` makes it.
        timeout_s: For the whole exchange.
        stop_after: Go away after so many events with text, as a client does that lost interest.
    """
    answer = Answer(sent_s=time.perf_counter())
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()

    def settle() -> None:
        if not done.done():
            done.set_result(None)

    reader = AnswerReader(answer, settle, stop_after=stop_after)
    tls = ssl.create_default_context() if target.is_tls else None
    try:
        async with asyncio.timeout(timeout_s):
            transport, _ = await loop.create_connection(
                lambda: _Connection(payload, reader), target.host, target.port, ssl=tls
            )
            try:
                await done
            finally:
                transport.abort()
    except TimeoutError:
        answer.error = "timeout"
    except OSError as error:
        answer.error = f"connect: {type(error).__name__}"
    answer.end_s = time.perf_counter()
    return answer


class _Connection(asyncio.Protocol):
    def __init__(self, payload: bytes, reader: AnswerReader) -> None:
        self._payload = payload
        self._reader = reader

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, since uvloop's transports are no subclasses of asyncio's.
        cast(asyncio.WriteTransport, transport).write(self._payload)

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data, time.perf_counter())

    def connection_lost(self, error: Exception | None) -> None:
        self._reader.end()


class AnswerReader:
    """Takes the bytes of one answer in any split.

    Args:
        answer: Is filled.
        on_end: Called once, when the answer is complete or cannot become so.
        stop_after: End after so many events with text.
    """

    def __init__(self, answer: Answer, on_end: Callable[[], object], *, stop_after: int | None = None) -> None:
        self._answer = answer
        self._on_end = on_end
        self._stop_after = stop_after
        self._rest = b""
        self._in_body = False
        self._is_chunked = False
        self._is_stream = False
        self._length: int | None = None
        self._event_rest = b""
        self._body: list[bytes] = []
        self._ended = False

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes that arrived at a time."""
        if self._ended:
            return
        try:
            self._rest += data
            if not self._in_body and not self._read_head():
                return
            if self._is_chunked:
                self._read_chunks(now_s)
            else:
                piece, self._rest = self._rest, b""
                self._take(piece, now_s)
                if self._length is not None and sum(map(len, self._body)) >= self._length:
                    self.end()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._fail(f"bad answer: {type(error).__name__}")

    def end(self) -> None:
        """Nothing more comes."""
        if self._ended:
            return
        answer = self._answer
        answer.body = b"".join(self._body)
        if not self._in_body:
            self._fail("cut off: no answer")
        elif answer.status != 200:
            self._fail(f"http {answer.status}")
        elif self._is_stream:
            self._fail("cut off: no [DONE]")
        elif self._length is not None and len(answer.body) < self._length:
            self._fail("cut off: body")
        else:
            self._finish()

    def _read_head(self) -> bool:
        head, found, rest = self._rest.partition(b"\r\n\r\n")
        if not found:
            return False
        self._rest, self._in_body = rest, True
        lines = head.decode("latin-1").split("\r\n")
        self._answer.status = int(lines[0].split()[1])
        headers = {name.strip().lower(): value.strip().lower() for name, _, value in (x.partition(":") for x in lines)}
        self._is_chunked = headers.get("transfer-encoding") == "chunked"
        self._is_stream = self._answer.status == 200 and "event-stream" in headers.get("content-type", "")
        self._length = int(headers["content-length"]) if "content-length" in headers else None
        return True

    def _read_chunks(self, now_s: float) -> None:
        data, start = self._rest, 0
        while (line_end := data.find(b"\r\n", start)) >= 0:
            size = int(data[start:line_end].partition(b";")[0], 16)
            chunk_end = line_end + 2 + size
            if size == 0:
                self._rest = b""
                self.end()
                return
            if len(data) < chunk_end + 2:
                break
            self._take(data[line_end + 2 : chunk_end], now_s)
            if self._ended:
                return
            start = chunk_end + 2
        self._rest = data[start:]

    def _take(self, piece: bytes, now_s: float) -> None:
        if not self._is_stream:
            self._body.append(piece)
            return
        if b"\r" in piece:
            piece = piece.replace(b"\r", b"")
        events = (self._event_rest + piece).split(b"\n\n")
        self._event_rest = events.pop()
        for event in events:
            if event.startswith(b"data:"):
                self._event(event[5:].strip(), now_s)

    def _event(self, data: bytes, now_s: float) -> None:
        answer = self._answer
        if data == b"[DONE]":
            self._finish()
            return
        event = json.loads(data)
        if "error" in event:
            self._fail(f"error event: {event['error'].get('type') or event['error'].get('code')}")
            return
        if event.get("usage"):
            answer.usage = event["usage"]
        if any(_has_text(choice) for choice in event.get("choices", ())):
            answer.text_times_s.append(now_s)
            if self._stop_after is not None and len(answer.text_times_s) >= self._stop_after:
                self._finish()

    def _fail(self, kind: str) -> None:
        self._answer.error = kind
        self._finish()

    def _finish(self) -> None:
        if self._ended:
            return
        self._ended = True
        if not self._is_stream and self._answer.error is None:
            body = json.loads(self._answer.body) if self._answer.body[:1] == b"{" else {}
            self._answer.usage = body.get("usage") or {}
        self._on_end()


def _has_text(choice: dict[str, Any]) -> bool:
    part = choice.get("delta", choice)
    return any(part.get(name) for name in _TEXT_FIELDS) or bool(part.get("tool_calls"))
