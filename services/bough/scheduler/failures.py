"""The ways in which the scheduler refuses or ends a request, in words and gRPC status numbers."""

from __future__ import annotations

from enum import IntEnum

from bough.common.requests import RequestFailure


class Code(IntEnum):
    """Numbers of google.rpc.Code that the scheduler uses."""

    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    INTERNAL = 13
    UNAVAILABLE = 14


def invalid(request: int, message: str) -> RequestFailure:
    """A request that no scheduler would take."""
    return RequestFailure(request, Code.INVALID_ARGUMENT, message)


def prompt_too_long(request: int, num_tokens: int, max_context: int) -> RequestFailure:
    """A prompt that leaves no room for a single produced token."""
    return invalid(
        request,
        f"prompt has {num_tokens} tokens, but the model's context of {max_context} tokens must hold it and at least "
        f"one produced token: at most {max_context - 1} are accepted",
    )


def output_too_long(request: int, num_tokens: int, num_forced: int, max_context: int) -> RequestFailure:
    """A given output that does not fit behind its prompt."""
    return invalid(
        request,
        f"prompt has {num_tokens} tokens and forced_ids {num_forced}, but the model's context of {max_context} tokens "
        f"must hold both: at most {max_context - num_tokens} forced_ids are accepted",
    )


def no_such_state(request: int, message: str) -> RequestFailure:
    """A base that is not there."""
    return RequestFailure(request, Code.NOT_FOUND, message)


def queue_full(request: int, num_requests: int, max_queue: int, retry_after_s: float) -> RequestFailure:
    """No room now."""
    return RequestFailure(
        request,
        Code.RESOURCE_EXHAUSTED,
        f"{num_requests} requests are waiting or running, and max_queue is {max_queue}",
        retry_after_ms=int(retry_after_s * 1000),
    )


def draining(request: int) -> RequestFailure:
    """The process is about to end and takes nothing new."""
    return RequestFailure(request, Code.UNAVAILABLE, "the scheduler is shutting down", retry_after_ms=1000)


def unknown(request: int) -> RequestFailure:
    """A resume of what is not, or no longer, recorded."""
    return RequestFailure(request, Code.NOT_FOUND, f"request {request} is not recorded here")


def ahead(request: int, position: int, num_tokens: int) -> RequestFailure:
    """A resume from beyond the record."""
    return invalid(request, f"resume from position {position}, but only {num_tokens} tokens are recorded")


def deadline_passed(request: int) -> RequestFailure:
    """The result would be of no use any more."""
    return RequestFailure(request, Code.DEADLINE_EXCEEDED, "the request's deadline passed before it was complete")


def executors_died(request: int) -> RequestFailure:
    """A request that seems to kill the executors that run it."""
    return internal(request, "executors died again and again while they ran this request")


def internal(request: int, message: str) -> RequestFailure:
    """A fault of ours."""
    return RequestFailure(request, Code.INTERNAL, message)
