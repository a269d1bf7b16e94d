"""A server on a free port that answers as OpenAI's API does, and can be told to hold, refuse or cut off."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Iterable
from typing import Any

from bough.load.http_client import Target

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(data: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


def text_event(text: str) -> bytes:
    return event({"choices": [{"index": 0, "text": text, "finish_reason": None}]})


def stream_of(texts: Iterable[str], *, completion_tokens: int, last: bytes = b"data: [DONE]\n\n") -> bytes:
    usage = {"prompt_tokens": 5, "completion_tokens": completion_tokens, "prompt_tokens_details": {"cached_tokens": 2}}
    events = [*map(text_event, texts), event({"choices": [], "usage": usage}), last]
    return HEAD + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in events) + b"0\r\n\r\n"


class FakeServer:
    """Answers every POST with `answer`, once `gate` is open."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.gate = asyncio.Event()
        self.gate.set()
        self.bodies: list[dict[str, Any]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.arrived = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._handlers: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> FakeServer:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.gate.set()
        await asyncio.gather(*self._handlers)

    @property
    def target(self) -> Target:
        assert self._server is not None
        return Target("127.0.0.1", self._server.sockets[0].getsockname()[1], "", False)

    async def until_arrived(self, count: int) -> None:
        async with self.arrived:
            await self.arrived.wait_for(lambda: len(self.bodies) >= count)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._answer(reader, writer)
        finally:
            self._handlers.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split()[0])
        body = json.loads(await reader.readexactly(length))
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        async with self.arrived:
            self.bodies.append(body)
            self.arrived.notify_all()
        await self.gate.wait()
        self.under_way -= 1
        writer.write(self.answer)
