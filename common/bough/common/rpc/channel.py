"""Client side: channels, unary calls with deadline and retry, and errors as domain errors."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import grpc
import grpc.aio

from bough.common.errors import BoughError, error_from_status
from bough.common.rpc.options import CHANNEL_OPTIONS

T = TypeVar("T")

RETRY_AFTER_KEY = "retry-after-ms"
"""Trailing metadata key that says when trying again may help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """When an idempotent unary call is tried again. Only UNAVAILABLE is: the call did not run or its copy died."""

    attempts: int = 6
    attempt_timeout_s: float = 30.0
    initial_backoff_s: float = 0.05
    max_backoff_s: float = 1.0


def open_channel(address: str) -> grpc.aio.Channel:
    """A channel to `unix:PATH`, `HOST:PORT` or `dns:///HOST:PORT`; calls are spread over all addresses of a name."""
    return grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)


def from_rpc_error(error: grpc.aio.AioRpcError, *, peer: str) -> BoughError:
    """The domain error that a failed call stands for."""
    retry_after_s = 1.0
    for key, value in error.trailing_metadata() or ():
        if key == RETRY_AFTER_KEY:
            retry_after_s = int(value) / 1000
    message = error.details() or error.code().name
    if error.code() is grpc.StatusCode.UNAVAILABLE:
        message = f"{peer} is not available: {message}"
    elif error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        message = f"{peer} did not answer in time"
    return error_from_status(error.code(), message, retry_after_s=retry_after_s)


async def call(
    method: Callable[..., Awaitable[T]], request: object, *, peer: str, policy: RetryPolicy | None = None
) -> T:
    """Make an idempotent unary call.

    Args:
        method: A stub's unary-unary method.
        request: Its message.
        peer: Name of the called service, for messages.
        policy: Deadline of an attempt and how often to try.

    Raises:
        BoughError: What the peer answered, or UnavailableError once all attempts failed.
    """
    policy = policy or RetryPolicy()
    backoff_s = policy.initial_backoff_s
    for attempt in range(1, policy.attempts + 1):
        try:
            return await method(request, timeout=policy.attempt_timeout_s)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == policy.attempts:
                raise from_rpc_error(error, peer=peer) from error
        await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
        backoff_s = min(2 * backoff_s, policy.max_backoff_s)
    raise AssertionError("unreachable: the last attempt returns or raises")
