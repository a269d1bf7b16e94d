"""Errors in the shape of OpenAI's API, and the wording that all refusals share."""

from __future__ import annotations

import json
import math
from typing import Any

import grpc

from bough.common.errors import BoughError, InvalidRequestError, NotFoundError, OverloadedError, TooLargeError

_MAX_SHOWN = 60


class UnauthorizedError(BoughError):
    """The call brings no valid API key."""

    code = grpc.StatusCode.UNAUTHENTICATED
    http_status = 401


class ModelNotFoundError(NotFoundError):
    """The model that the call names is not served."""


class ContextLengthError(InvalidRequestError):
    """Prompt and output do not fit into the model's context."""


class ClientGoneError(Exception):
    """The client closed its connection; there is nobody left to tell."""


_TYPES = {
    401: "authentication_error",
    404: "not_found_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable_error",
}


def shown(value: Any) -> str:
    """A client's value for a message: JSON where it is JSON, shortened."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}… ({len(text)} characters)"


def refuse(field: str, value: Any, accepted: str) -> InvalidRequestError:
    """The error for a value that is not accepted: field, value and what would be."""
    return InvalidRequestError(f"{field}: got {shown(value)}, accepted is {accepted}", field=field)


def error_body(error: BoughError) -> dict[str, Any]:
    """An error as OpenAI's API says it."""
    return {
        "error": {
            "message": str(error),
            "type": _TYPES.get(error.http_status, "invalid_request_error"),
            "param": error.field if isinstance(error, InvalidRequestError) else None,
            "code": _code(error),
        }
    }


def error_headers(error: BoughError) -> list[tuple[bytes, bytes]]:
    """Headers that go with an error: when to try again, how to authenticate."""
    if isinstance(error, OverloadedError):
        return [
            (b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()),
            (b"retry-after-ms", str(int(error.retry_after_s * 1000)).encode()),
        ]
    if error.http_status == 503:
        return [(b"retry-after", b"1")]
    if error.http_status == 401:
        return [(b"www-authenticate", b"Bearer")]
    return []


def _code(error: BoughError) -> str | None:
    if isinstance(error, ModelNotFoundError):
        return "model_not_found"
    if isinstance(error, ContextLengthError):
        return "context_length_exceeded"
    if isinstance(error, TooLargeError):
        return "body_too_large"
    if isinstance(error, UnauthorizedError):
        return "invalid_api_key"
    if isinstance(error, OverloadedError):
        return "queue_full"
    return None
