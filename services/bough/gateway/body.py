"""Request bodies: read within a limit, parsed strictly, and checked against a schema with errors that help."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import from_json
from starlette.types import Receive, Scope, Send

from bough.common.errors import InvalidRequestError, TooLargeError
from bough.gateway.errors import ClientGoneError, refuse, shown
from bough.gateway.rules import ACCEPTED
from bough.gateway.schema import RefusedValue

M = TypeVar("M", bound=BaseModel)

_OFF_LOOP_BYTES = 256 * 1024
"""Larger bodies are parsed in a thread, so that running streams go on meanwhile."""

_DISCARD_S = 10.0
"""How long the rest of a body that is too large is read and thrown away."""


async def read_body(scope: Scope, receive: Receive, *, limit_bytes: int) -> bytes:
    """The body of a request.

    Raises:
        TooLargeError: It is larger than the limit; no more than that was read.
        ClientGoneError: The client closed the connection before its end.
    """
    length = _header(scope, b"content-length")
    if length.isdigit() and int(length) > limit_bytes:
        raise _too_large(f"{int(length)} bytes", limit_bytes)
    if _header(scope, b"content-encoding") not in (b"", b"identity"):
        raise refuse("content-encoding", _header(scope, b"content-encoding").decode("latin-1"), "an uncompressed body")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit_bytes:
            raise _too_large("more", limit_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def answer_and_discard(
    scope: Scope, receive: Receive, send: Send, *, status: int, headers: list[tuple[bytes, bytes]], body: bytes
) -> None:
    """Answer at once and read on for a while without keeping anything.

    Closing a connection while its client still writes would reset it, and the client would never see the answer.
    """
    await send({"type": "http.response.start", "status": status, "headers": [*headers, (b"connection", b"close")]})
    await send({"type": "http.response.body", "body": body, "more_body": True})
    if _header(scope, b"expect") != b"100-continue":
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DISCARD_S):
                while (message := await receive())["type"] == "http.request" and message.get("more_body", False):
                    pass
    await send({"type": "http.response.body", "body": b""})


async def parse_body(body: bytes, schema: type[M]) -> M:
    """A body as an instance of its schema. InvalidRequestError names the field, its value and what is accepted."""
    if len(body) > _OFF_LOOP_BYTES:
        return await asyncio.to_thread(_parse, body, schema)
    return _parse(body, schema)


def _parse(body: bytes, schema: type[M]) -> M:
    try:
        # Refuses invalid UTF-8, lone surrogates, NaN and Infinity, and what nests deeper than 200.
        value = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequestError(f"body: is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise InvalidRequestError(f"body: got {shown(value)}, accepted is a JSON object")
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        raise _explain(error, schema) from None


def _explain(error: ValidationError, schema: type[BaseModel]) -> InvalidRequestError:
    first = error.errors(include_url=False, include_context=True)[0]
    cause: object = first.get("ctx", {}).get("error")
    if isinstance(cause, RefusedValue):
        return cause.error
    name = str(first["loc"][0]) if first["loc"] else ""
    # The path of a union ends with the alternative that was tried last, which tells a client nothing.
    field = name if name in ACCEPTED else _path(first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(first["loc"][-1]), schema.model_fields, n=1)
        hint = f"; did you mean {near[0]}?" if near and len(first["loc"]) == 1 else ""
        return InvalidRequestError(f"{field}: unknown field with value {shown(first['input'])}{hint}", field=field)
    if first["type"] == "missing":
        return InvalidRequestError(f"{field}: is missing", field=field)
    message = ACCEPTED.get(name) or _lower_first(first["msg"].removeprefix("Input should be "))
    return refuse(field, first["input"], message)


def _path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path or "body"


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]


def _header(scope: Mapping[str, Any], name: bytes) -> bytes:
    return next((bytes(value) for key, value in scope["headers"] if key == name), b"")


def _too_large(got: str, limit_bytes: int) -> TooLargeError:
    return TooLargeError(f"body: got {got}, accepted are at most {limit_bytes} bytes (max_body_mb)", field="body")
