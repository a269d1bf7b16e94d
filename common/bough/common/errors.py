"""One tree of errors, and what each means on the wire and in HTTP.

BoughError
├── InvalidRequestError    INVALID_ARGUMENT     400   the client's fault; names field, value and what is accepted
│   ├── NotFoundError      NOT_FOUND            404   unknown model, unknown request
│   └── TooLargeError      OUT_OF_RANGE         413   a body or message beyond its limit
├── OverloadedError        RESOURCE_EXHAUSTED   429   may be retried after `retry_after_s`
├── UnavailableError       UNAVAILABLE          503   a part of the chain is down; may be retried
├── MismatchError          FAILED_PRECONDITION  500   two services hold different models; an operator must act
├── ModelError             FAILED_PRECONDITION  500   a model directory that cannot be served
└── InternalError          INTERNAL             500   our fault
"""

from __future__ import annotations

from typing import ClassVar

import grpc


class BoughError(Exception):
    """Base of all errors that may reach a caller; its text is meant for the caller."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    http_status: ClassVar[int] = 500
    retryable: ClassVar[bool] = False


class InvalidRequestError(BoughError):
    """The request is wrong; `field` names where."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    http_status = 400

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(InvalidRequestError):
    """What the request names does not exist."""

    code = grpc.StatusCode.NOT_FOUND
    http_status = 404


class TooLargeError(InvalidRequestError):
    """A body or message beyond its limit."""

    code = grpc.StatusCode.OUT_OF_RANGE
    http_status = 413


class OverloadedError(BoughError):
    """No room now; `retry_after_s` says when to try again."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    http_status = 429
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UnavailableError(BoughError):
    """A part of the chain is down."""

    code = grpc.StatusCode.UNAVAILABLE
    http_status = 503
    retryable = True


class MismatchError(BoughError):
    """Two services hold different models or vocabularies."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class ModelError(BoughError):
    """A model directory that cannot be served; the message says what to do."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class InternalError(BoughError):
    """A fault of ours."""


_BY_CODE: dict[grpc.StatusCode, type[BoughError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.OUT_OF_RANGE: TooLargeError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.FAILED_PRECONDITION: MismatchError,
}
_CODE_BY_NUMBER = {code.value[0]: code for code in grpc.StatusCode}


def error_from_status(code: grpc.StatusCode, message: str, *, retry_after_s: float = 1.0) -> BoughError:
    """The error that a peer meant by a gRPC status."""
    kind = _BY_CODE.get(code, InternalError)
    if kind is OverloadedError:
        return OverloadedError(message, retry_after_s=retry_after_s)
    return kind(message)


def error_from_number(code: int, message: str, *, retry_after_s: float = 1.0) -> BoughError:
    """As `error_from_status`, from the number of a status."""
    return error_from_status(_CODE_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN), message, retry_after_s=retry_after_s)


def code_number(error: BaseException) -> int:
    """Number of the gRPC status that stands for an error."""
    code = error.code if isinstance(error, BoughError) else grpc.StatusCode.INTERNAL
    number: int = code.value[0]
    return number
