"""The ASGI application: routes, keys, request ids, traces, and every error in OpenAI's shape."""

from __future__ import annotations

import hmac
import json
import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from email.utils import formatdate

from opentelemetry.trace import Span, SpanKind, StatusCode
from starlette.exceptions import HTTPException
from starlette.routing import Route, Router
from starlette.types import Message, Receive, Scope, Send

from bough.common.errors import (
    BoughError,
    InternalError,
    InvalidRequestError,
    NotFoundError,
    TooLargeError,
    UnavailableError,
)
from bough.common.telemetry import Telemetry, request_extra, traceparent_of
from bough.gateway.body import answer_and_discard
from bough.gateway.endpoints import send_json
from bough.gateway.errors import ClientGoneError, UnauthorizedError, error_body, error_headers
from bough.gateway.metrics import GatewayMetrics

logger = logging.getLogger(__name__)

Endpoint = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN_PATHS = frozenset({"/health", "/ready", "/metrics"})
"""Need no key: probes and scrapers have none."""

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class ApiKey:
    """Compares bearer tokens with the key, in constant time."""

    def __init__(self, key: str | None) -> None:
        self._expected = None if key is None else f"Bearer {key}".encode()

    def check(self, authorization: bytes) -> None:
        """Raise UnauthorizedError unless the header's value carries the key, where there is one."""
        if self._expected is not None and not hmac.compare_digest(authorization, self._expected):
            raise UnauthorizedError("authorization: is missing or wrong, accepted is Bearer and the API key")


class _Endpoint:
    """Starlette takes plain functions for something that makes responses; an object it calls as ASGI."""

    def __init__(self, function: Endpoint) -> None:
        self._function = function

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._function(scope, receive, send)


def route(method: str, path: str, endpoint: Endpoint) -> Route:
    """A route to an ASGI function."""
    return Route(path, _Endpoint(endpoint), methods=[method])


class _Exchange:
    """One request and the beginning of its answer."""

    def __init__(self, scope: Scope, send: Send, date: bytes) -> None:
        headers: dict[bytes, bytes] = {bytes(name): bytes(value) for name, value in scope["headers"]}
        given = headers.get(b"x-request-id", b"")
        self.request_id = given.decode() if _REQUEST_ID.fullmatch(given) else secrets.token_hex(12)
        traceparent = headers.get(b"traceparent", b"")
        self.traceparent = traceparent.decode() if _TRACEPARENT.fullmatch(traceparent) else ""
        self.authorization = headers.get(b"authorization", b"")
        self.status: int | None = None
        self._send = send
        self._headers = [(b"x-request-id", self.request_id.encode()), (b"date", date)]

    async def send(self, message: Message) -> None:
        """Pass a message of the answer on, with our headers in its beginning."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message["headers"], *self._headers]
        await self._send(message)


class App:
    """The gateway as an ASGI application.

    Args:
        routes: What is served.
        api_key: Asked of all but the open paths.
        metrics: Counts answers.
        telemetry: Where spans go.
    """

    def __init__(self, routes: list[Route], *, api_key: ApiKey, metrics: GatewayMetrics, telemetry: Telemetry) -> None:
        self._router = Router(routes, redirect_slashes=False)
        self._paths = frozenset(r.path for r in routes)
        self._templates = [(r.path_regex, r.path_format) for r in routes if r.param_convertors]
        self._api_key = api_key
        self._metrics = metrics
        self._telemetry = telemetry
        self._date = (0, b"")
        self.draining = False
        """New requests get 503; those that are open go on."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        exchange = _Exchange(scope, send, self._now())
        scope["app"] = self  # makes the router raise HTTPException instead of answering in plain text
        scope["state"] = {"request_id": exchange.request_id, "traceparent": exchange.traceparent}
        span = self._open_span(scope, exchange) if self._telemetry.traces else None
        try:
            if scope["path"] not in OPEN_PATHS:
                self._api_key.check(exchange.authorization)
                if self.draining:
                    raise UnavailableError("the gateway is shutting down")
            await self._router(scope, receive, exchange.send)
        except ClientGoneError:
            logger.debug("client is gone", extra=request_extra(exchange.request_id))
        except Exception as error:
            await self._answer_error(_as_bough_error(error, scope), scope, receive, exchange)
        finally:
            self._count(scope, exchange, span)

    async def _answer_error(self, error: BoughError, scope: Scope, receive: Receive, exchange: _Exchange) -> None:
        if exchange.status is not None:
            return  # the answer has begun; its connection ends without its end, which tells the client
        headers = error_headers(error)
        if isinstance(error, TooLargeError):
            body = json.dumps(error_body(error), ensure_ascii=False).encode()
            headers = [(b"content-type", b"application/json"), *headers]
            await answer_and_discard(scope, receive, exchange.send, status=413, headers=headers, body=body)
            return
        if self.draining:
            headers = [*headers, (b"connection", b"close")]
        await send_json(exchange.send, error.http_status, error_body(error), headers)

    def _open_span(self, scope: Scope, exchange: _Exchange) -> Span:
        path = self._known(scope["path"]) or scope["path"]
        span = self._telemetry.start_span(f"HTTP {scope['method']} {path}", exchange.traceparent, kind=SpanKind.SERVER)
        span.set_attribute("bough.request_id", exchange.request_id)
        scope["state"]["traceparent"] = traceparent_of(span)
        return span

    def _count(self, scope: Scope, exchange: _Exchange, span: Span | None) -> None:
        status = exchange.status or 499  # the client left before there was an answer
        known = self._known(scope["path"])
        self._metrics.count(f"{scope['method']} {known}" if known else "other", status)
        if span is not None:
            span.set_attribute("http.response.status_code", status)
            if status >= 500:
                span.set_status(StatusCode.ERROR)
            span.end()

    def _known(self, path: str) -> str:
        """The path as it is served, without what fills its places; empty where nothing is."""
        if path in self._paths:
            return path
        return next((template for regex, template in self._templates if regex.match(path)), "")

    def _now(self) -> bytes:
        now = int(time.time())
        if now != self._date[0]:
            self._date = (now, formatdate(now, usegmt=True).encode())
        return self._date[1]


def _as_bough_error(error: Exception, scope: Scope) -> BoughError:
    if isinstance(error, BoughError):
        if error.http_status == 500:
            logger.error("%s %s: %s", scope["method"], scope["path"], error)
        return error
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return NotFoundError(f"path: {scope['path'][:100]!r} does not exist")
        if error.status_code == 405:
            return MethodNotAllowedError(f"method: {scope['method']} is not accepted for {scope['path'][:100]!r}")
    logger.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
    return InternalError("internal error")


class MethodNotAllowedError(InvalidRequestError):
    """The path does not take the method."""

    http_status = 405
