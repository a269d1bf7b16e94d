"""Errors of programs, beside those that all calls share."""

from __future__ import annotations

import grpc

from bough.common.errors import BoughError, InvalidRequestError, error_from_number


class StateExistsError(InvalidRequestError):
    """The number of a new state is in use."""

    code = grpc.StatusCode.ALREADY_EXISTS
    http_status = 409


class NotABranchError(InvalidRequestError):
    """A state is not, or no longer, what the call takes it for: a branch of another one."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    http_status = 409


class StateChangedError(InvalidRequestError):
    """Somebody else has changed the state while the call was under way."""

    code = grpc.StatusCode.ABORTED
    http_status = 409


class CallCancelledError(BoughError):
    """The client has cancelled the call, or released its state."""

    code = grpc.StatusCode.CANCELLED
    http_status = 499


_BY_NUMBER: dict[int, type[BoughError]] = {
    kind.code.value[0]: kind for kind in (StateExistsError, NotABranchError, StateChangedError, CallCancelledError)
}


def order_error(code: int, message: str) -> BoughError:
    """The error that the scheduler meant by an answer."""
    kind = _BY_NUMBER.get(code)
    return error_from_number(code, message) if kind is None else kind(message)
