"""Calls over HTTP, blocking and async: what both have in common, and the two that send."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx

from bough.client.calls import Call
from bough.client.errors import AnswerError, BoughError, InvalidRequestError, error_of_response, mapped
from bough.client.events import EventParser, readable
from bough.client.retries import RetryPolicy

T = TypeVar("T")

_CONNECT_TIMEOUT_S = 10.0
_LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Where calls go, and how.

    Raises:
        InvalidRequestError: The address is none of HTTP.
    """

    base_url: str
    """`http://HOST:PORT`, with or without `/v1`."""
    api_key: str | None = field(default=None, repr=False)
    timeout_s: float | None = 600.0
    """How long the server may send nothing; None: for ever."""
    retry: RetryPolicy = field(default_factory=RetryPolicy)

    def __post_init__(self) -> None:
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            accepted = "http://HOST:PORT or https://HOST:PORT"
            raise InvalidRequestError(f"base_url: got {self.base_url!r}, accepted is {accepted}", field="base_url")

    def options(self) -> dict[str, Any]:
        """Arguments of httpx's clients."""
        parts = urlsplit(self.base_url)
        return {
            "base_url": self.base_url.rstrip("/").removesuffix("/v1"),
            "headers": {} if self.api_key is None else {"authorization": f"Bearer {self.api_key}"},
            "timeout": httpx.Timeout(self.timeout_s, connect=_CONNECT_TIMEOUT_S, pool=None),
            # A pool with a limit would hold back the calls of a program that has many branches.
            "limits": httpx.Limits(max_connections=None, max_keepalive_connections=64),
            # A proxy of the environment would take 127.0.0.1 for its own.
            "trust_env": parts.hostname not in _LOOPBACK,
            # Certificates take tens of milliseconds to load.
            "verify": parts.scheme == "https",
        }


class Attempts:
    """Counts the attempts of one call."""

    def __init__(self, policy: RetryPolicy, call: Call) -> None:
        self._policy = policy if call.is_repeated else RetryPolicy(max_retries=0)
        self._retries = 0

    def delay_s(self, error: BoughError) -> float:
        """When to try again; raises the error where that makes no sense."""
        delay_s = self._policy.delay_s(error, self._retries)
        if delay_s is None:
            raise error
        self._retries += 1
        return delay_s


class Transport:
    """Sends calls and waits for their answers."""

    def __init__(self, server: Server) -> None:
        self._retry = server.retry
        self._http = httpx.Client(**server.options())

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def send(self, call: Call, read: Callable[[Any], T]) -> T:
        """What is read from the answer's body; raises the error that it means."""
        response = self._open(call)
        try:
            with mapped(call):
                return _read(call, read, response.read())
        finally:
            response.close()

    def stream(self, call: Call, read: Callable[[Any], Iterable[T]]) -> Generator[T, None, None]:
        """What is read from the events of a stream; raises the error that ends it."""
        response, parser = self._open(call), EventParser(call, read)
        try:
            with mapped(call, is_under_way=True):
                for data in response.iter_bytes():
                    yield from parser.feed(data)
            parser.end()
        finally:
            response.close()

    def _open(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._retry, call)
        while True:
            try:
                return self._try(call)
            except BoughError as error:
                time.sleep(attempts.delay_s(error))

    def _try(self, call: Call) -> httpx.Response:
        with mapped(call):
            response = self._http.send(self._http.build_request(call.method, call.path, json=call.body), stream=True)
            if response.is_success:
                return response
            try:
                raise error_of_response(call, response.status_code, response.read(), response.headers)
            finally:
                response.close()


class AsyncTransport:
    """As `Transport`, within one event loop."""

    def __init__(self, server: Server) -> None:
        self._retry = server.retry
        self._http = httpx.AsyncClient(**server.options())

    async def aclose(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    async def send(self, call: Call, read: Callable[[Any], T]) -> T:
        """What is read from the answer's body; raises the error that it means."""
        response = await self._open(call)
        try:
            with mapped(call):
                return _read(call, read, await response.aread())
        finally:
            await response.aclose()

    async def stream(self, call: Call, read: Callable[[Any], Iterable[T]]) -> AsyncGenerator[T, None]:
        """What is read from the events of a stream; raises the error that ends it."""
        response, parser = await self._open(call), EventParser(call, read)
        try:
            with mapped(call, is_under_way=True):
                async for data in response.aiter_bytes():
                    for piece in parser.feed(data):
                        yield piece
            parser.end()
        finally:
            await response.aclose()

    async def _open(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._retry, call)
        while True:
            try:
                return await self._try(call)
            except BoughError as error:
                await asyncio.sleep(attempts.delay_s(error))

    async def _try(self, call: Call) -> httpx.Response:
        with mapped(call):
            request = self._http.build_request(call.method, call.path, json=call.body)
            response = await self._http.send(request, stream=True)
            if response.is_success:
                return response
            try:
                raise error_of_response(call, response.status_code, await response.aread(), response.headers)
            finally:
                await response.aclose()


def _read(call: Call, read: Callable[[Any], T], body: bytes) -> T:
    try:
        parsed = json.loads(body)
    except ValueError:
        raise AnswerError(f"{call}: got {body[:80]!r}, accepted is JSON") from None
    return readable(call, read, parsed)
