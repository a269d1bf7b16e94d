"""Errors of calls over REST: those of `bough.common.errors`, by the status, and some that only a client has.

InvalidRequestError          400 and other 4xx; `field` names what is wrong
├── NotFoundError            404
└── TooLargeError            413
UnauthorizedError            401, 403
OverloadedError              429; `retry_after_s`
UnavailableError             502, 503, 504
├── ConnectionFailedError    no server answers, or it hangs up before it has
├── TimedOutError            it does not answer in time
└── StreamBrokenError        a stream ends before its end
InternalError                other 5xx
└── AnswerError              an answer that is not what the API promises
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import grpc
import httpx

from bough.common.errors import (
    BoughError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    OverloadedError,
    TooLargeError,
    UnavailableError,
)

__all__ = [
    "AnswerError",
    "BoughError",
    "ConnectionFailedError",
    "InternalError",
    "InvalidRequestError",
    "NotFoundError",
    "OverloadedError",
    "StreamBrokenError",
    "TimedOutError",
    "TooLargeError",
    "UnauthorizedError",
    "UnavailableError",
    "error_of_event",
    "error_of_response",
    "mapped",
]

_DEFAULT_RETRY_S = 1.0
_MAX_SHOWN = 200


class UnauthorizedError(BoughError):
    """The call brings no API key that the server takes."""

    code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class ConnectionFailedError(UnavailableError):
    """No server answers at this address, or it hangs up before it has answered."""


class TimedOutError(UnavailableError):
    """The server does not answer in time."""


class StreamBrokenError(UnavailableError):
    """A stream ends before its end; what came until then is not the whole answer."""


class AnswerError(InternalError):
    """An answer that is not what the API promises."""


@contextlib.contextmanager
def mapped(call: object, *, is_under_way: bool = False) -> Iterator[None]:
    """Raise errors of the transport as ours.

    Args:
        call: What is called, for the message.
        is_under_way: The answer has begun.
    """
    try:
        yield
    except httpx.ConnectTimeout as error:
        raise ConnectionFailedError(f"{call}: no connection in time") from error
    except httpx.TimeoutException as error:
        raise TimedOutError(f"{call}: the server has sent nothing for too long") from error
    except httpx.TransportError as error:
        kind = StreamBrokenError if is_under_way else ConnectionFailedError
        raise kind(f"{call}: {error or type(error).__name__}") from error


def error_of_response(call: object, status: int, body: bytes, headers: Mapping[str, str]) -> BoughError:
    """The error that an answer means which is none of success."""
    message, field = _explained(body)
    error = _of_status(status, message or f"HTTP {status}", field, retry_after_s(headers) or _DEFAULT_RETRY_S)
    request = headers.get("x-request-id")
    error.add_note(f"{call}: HTTP {status}" + (f", request {request}" if request else ""))
    return error


def error_of_event(error: Any) -> BoughError:
    """The error that ends a stream, from the `error` of its event."""
    if not isinstance(error, dict):
        return InternalError(str(error))
    message = str(error.get("message") or error)
    if error.get("type") == "invalid_request_error":
        return InvalidRequestError(message, field=error.get("param"))
    return UnavailableError(message) if error.get("type") == "service_unavailable_error" else InternalError(message)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """When a server wants to be asked again, in seconds; None where it does not say, or says a date."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return max(0.0, float(headers[name]) * unit_s)
        except (KeyError, ValueError):
            continue
    return None


def _of_status(status: int, message: str, field: str | None, retry_s: float) -> BoughError:
    if status in (401, 403):
        return UnauthorizedError(message)
    if status == 404:
        return NotFoundError(message, field=field)
    if status == 413:
        return TooLargeError(message, field=field)
    if status == 429:
        return OverloadedError(message, retry_after_s=retry_s)
    if status in (502, 503, 504):
        return UnavailableError(message)
    return InternalError(message) if status >= 500 else InvalidRequestError(message, field=field)


def _explained(body: bytes) -> tuple[str, str | None]:
    """(message, field) of an error's body, in whatever shape."""
    try:
        parsed = json.loads(body)
    except ValueError:
        return body[:_MAX_SHOWN].decode(errors="replace").strip(), None
    found = parsed.get("error", parsed) if isinstance(parsed, dict) else parsed
    if not isinstance(found, dict):
        return str(found)[:_MAX_SHOWN], None
    return str(found.get("message") or found)[: 10 * _MAX_SHOWN], found.get("param")
