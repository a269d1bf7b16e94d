"""The generating endpoints of the REST API: POST /v1/completions and /v1/chat/completions."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from starlette.types import Receive, Scope, Send

from bough.common.errors import BoughError, InternalError
from bough.gateway.body import parse_body, read_body
from bough.gateway.chat_format import ChatFormat, ParsedChatFormat
from bough.gateway.domain import GenerationRequest, IdsPrompt, TextPrompt
from bough.gateway.errors import ClientGoneError, error_body
from bough.gateway.formats import DONE, CompletionFormat, Format, Shape, usage_of
from bough.gateway.generate import Generator, Running
from bough.gateway.http_server import BodyWriter, body_writer
from bough.gateway.receiver import Call, Piece
from bough.gateway.schema import ChatBody, CompletionBody, GenerationBody
from bough.gateway.translate import chat_request, completion_request

logger = logging.getLogger(__name__)

Decode = Callable[[tuple[int, ...]], Awaitable[str]]

_SSE_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # A proxy that gathers the stream would defeat it.
    (b"x-accel-buffering", b"no"),
]


async def send_json(send: Send, status: int, body: Any, headers: list[tuple[bytes, bytes]] | None = None) -> None:
    """Answer with a JSON body."""
    data = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    start = [(b"content-type", b"application/json"), (b"content-length", str(len(data)).encode()), *(headers or ())]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": data})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """One parsed call."""

    request: GenerationRequest
    format_class: type[CompletionFormat] | type[ChatFormat]
    stream: bool
    include_usage: bool
    token_ids: bool
    echo: bool


class GenerationEndpoints:
    """Answers generating calls, streamed and not.

    Args:
        generator: Runs generations.
        decode: Text of token ids, for echoing a prompt that came as ids.
        limit_bytes: Largest body.
    """

    def __init__(self, generator: Generator, decode: Decode, *, limit_bytes: int) -> None:
        self._generator = generator
        self._decode = decode
        self._limit_bytes = limit_bytes
        identity = generator.model.identity
        self._model = identity.model
        self._fingerprint = f"fp_{identity.revision}"

    async def completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/completions."""
        body = await parse_body(await read_body(scope, receive, limit_bytes=self._limit_bytes), CompletionBody)
        plan = _plan(body, completion_request(body), CompletionFormat, echo=bool(body.echo))
        await self._answer(plan, f"cmpl-{scope['state']['request_id']}", scope, receive, send)

    async def chat_completions(self, scope: Scope, receive: Receive, send: Send) -> None:
        """POST /v1/chat/completions."""
        body = await parse_body(await read_body(scope, receive, limit_bytes=self._limit_bytes), ChatBody)
        plan = _plan(body, chat_request(body), ChatFormat, echo=False)
        await self._answer(plan, f"chatcmpl-{scope['state']['request_id']}", scope, receive, send)

    async def _answer(self, plan: _Plan, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        call = Call(name)
        traceparent: str = scope["state"]["traceparent"]
        async with watched(receive, call), self._generator.run(call, plan.request, traceparent=traceparent) as running:
            style = _style(plan, running, await self._shape(plan))
            if plan.stream:
                writer = body_writer(scope)
                await EventStream(running, style, writer, include_usage=plan.include_usage).answer(send)
            else:
                await send_json(send, 200, await gather_body(running, style))

    async def _shape(self, plan: _Plan) -> Shape:
        echoes: list[str] = []
        if plan.echo:
            for prompt in plan.request.prompts:
                if isinstance(prompt, TextPrompt):
                    echoes.append(prompt.text)
                elif isinstance(prompt, IdsPrompt):
                    echoes.append(await self._decode(prompt.ids))
        return Shape(
            model=self._model,
            fingerprint=self._fingerprint,
            include_usage=plan.stream and plan.include_usage,
            token_ids=plan.token_ids,
            echoes=echoes,
        )


def _plan(
    body: GenerationBody,
    request: GenerationRequest,
    format_class: type[CompletionFormat] | type[ChatFormat],
    *,
    echo: bool,
) -> _Plan:
    options = body.stream_options
    return _Plan(
        request=request,
        format_class=format_class,
        stream=bool(body.stream),
        include_usage=options is not None and bool(options.include_usage),
        token_ids=bool(body.return_token_ids),
        echo=echo,
    )


def _style(plan: _Plan, running: Running, shape: Shape) -> Format:
    if running.reading is not None:
        return ParsedChatFormat(running.call, shape, running.reading)
    return plan.format_class(running.call, shape)


@asynccontextmanager
async def watched(receive: Receive, call: Call) -> AsyncIterator[None]:
    """Fails a call when its client closes the connection."""
    watcher = asyncio.create_task(_watch_client(receive, call))
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)


async def _watch_client(receive: Receive, call: Call) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    call.fail(ClientGoneError())


async def gather_body(running: Running, style: Format) -> dict[str, Any]:
    """The answer of a call that is not streamed."""
    call, saw = running.call, running.saw
    choices = [style.new_choice(index) for index in range(len(call.receivers))]

    def take(pieces: list[Piece]) -> None:
        for piece in pieces:
            saw(piece)
            choices[piece.index].add(piece)

    await call.each(take)
    return style.body(choices, usage_of(call))


class EventStream:
    """A call answered by server-sent events: what comes in is written at once, by whoever received it.

    What comes in while the client reads too slowly gathers, and goes out in one piece when it has caught up.

    Args:
        running: The call.
        style: How it is answered.
        writer: Writes the body.
        include_usage: End with an event that says what was used.
        finish: Does what is to be done once all has come, and returns the events that tell of it.
    """

    def __init__(
        self,
        running: Running,
        style: Format,
        writer: BodyWriter,
        *,
        include_usage: bool,
        finish: Callable[[], Awaitable[str]] | None = None,
    ) -> None:
        self._finish = finish
        self._call = running.call
        self._saw = running.saw
        self._chunk = style.chunk
        self._style = style
        self._write = writer.write
        self._include_usage = include_usage

    async def answer(self, send: Send) -> None:
        """Write the whole answer."""
        # Until something came in, an error can still be answered with its own status.
        pieces = await self._call.pieces()
        await send({"type": "http.response.start", "status": 200, "headers": _SSE_HEADERS})
        try:
            if (pause := self._take(pieces)) is not None:
                await pause
            await self._call.each(self._take)
            end = await self._finish() if self._finish is not None else ""
        except ClientGoneError:
            raise
        except Exception as error:
            await _send_error(error, self._call, send)
            return
        usage = self._style.usage_chunk(usage_of(self._call)) if self._include_usage else ""
        await send({"type": "http.response.body", "body": (usage + end + DONE).encode(), "more_body": False})

    def _take(self, pieces: list[Piece]) -> Awaitable[None] | None:
        events = ""
        for piece in pieces:
            self._saw(piece)
            events += self._chunk(piece)
        return self._write(events.encode()) if events else None


async def _send_error(error: Exception, call: Call, send: Send) -> None:
    """End a stream with an error event. No [DONE] follows, since the stream is not whole."""
    if not isinstance(error, BoughError):
        logger.error("%s failed", call.name, exc_info=error)
        error = InternalError("internal error")
    data = f"data: {json.dumps(error_body(error), ensure_ascii=False)}\n\n".encode()
    await send({"type": "http.response.body", "body": data, "more_body": False})
