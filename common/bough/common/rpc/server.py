"""Server side: a grpc.aio server with health, reflection and errors as statuses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import grpc.aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from bough.common.errors import BoughError, OverloadedError
from bough.common.rpc.channel import RETRY_AFTER_KEY
from bough.common.rpc.options import SERVER_OPTIONS, SHARED_PORT_OPTIONS, aged

logger = logging.getLogger(__name__)

READY_SERVICE = "bough.ready"
"""Health-check name that answers whether this service and everything behind it can serve."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Turns a domain error raised by a handler into its status; anything else is logged as a fault of ours."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wrap the handlers of our own services; health and reflection pass unchanged."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/bough."):
            return handler
        if handler.unary_unary is not None:
            return grpc.unary_unary_rpc_method_handler(
                _guard_unary(handler.unary_unary), handler.request_deserializer, handler.response_serializer
            )
        if handler.unary_stream is not None:
            return grpc.unary_stream_rpc_method_handler(
                _guard_stream(handler.unary_stream), handler.request_deserializer, handler.response_serializer
            )
        if handler.stream_stream is not None:
            return grpc.stream_stream_rpc_method_handler(
                _guard_stream(handler.stream_stream), handler.request_deserializer, handler.response_serializer
            )
        return handler


async def abort_with(context: grpc.aio.ServicerContext[Any, Any], error: BaseException) -> None:
    """End a call with the status of an error."""
    if isinstance(error, OverloadedError):
        context.set_trailing_metadata(((RETRY_AFTER_KEY, str(int(error.retry_after_s * 1000))),))
    if isinstance(error, BoughError):
        await context.abort(error.code, str(error))
    logger.error("a handler failed", exc_info=error)
    await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")


class _SettledContext:
    """A stream's context whose first write is never left behind.

    Cancelling a write only stops waiting for it. The first one carries the initial metadata, which grpc.aio would send
    again with the status, since it has not seen them arrive; the core refuses that, and the peer then waits for the end
    of the stream for ever. So the first write goes on by itself, and whatever follows waits for it.
    """

    def __init__(self, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        self._context = context
        self._first: asyncio.Future[None] | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def write(self, message: Any) -> None:
        """As the call's own."""
        if self._first is None:
            self._first = asyncio.ensure_future(self._context.write(message))
            self._first.add_done_callback(lambda done: done.cancelled() or done.exception())
            await asyncio.shield(self._first)
        else:
            await self.settle()
            await self._context.write(message)

    async def abort(self, *arguments: Any, **named: Any) -> None:
        """As the call's own."""
        await self.settle()
        await self._context.abort(*arguments, **named)

    async def settle(self) -> None:
        """Wait until the first write is through, if there was one."""
        if self._first is not None and not self._first.done():
            await asyncio.wait({self._first})


def _guard_unary(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await handler(request, context)
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await abort_with(context, error)

    return guarded


def _guard_stream(handler: Callable[..., Any]) -> Callable[..., Any]:
    # Handlers are async generators or, where they use context.write, coroutines; the wrapper is always a coroutine.
    async def guarded(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        settled: Any = _SettledContext(context)
        try:
            result = handler(request, settled)
            if hasattr(result, "__aiter__"):
                async for message in result:
                    await settled.write(message)
            else:
                await result
            await settled.settle()
        except (grpc.aio.AbortError, grpc.aio.UsageError):
            raise
        except Exception as error:
            await abort_with(settled, error)

    return guarded


class RpcServer:
    """A grpc.aio server on one address. Health `""` is liveness, `bough.ready` is readiness of the chain.

    Args:
        address: Where to serve.
        max_concurrent_rpcs: Calls beyond these are refused.
        shared: Other processes serve on the same TCP port.
        connection_age_s: After about so long connections end, so that callers notice new copies; None: they stay.
    """

    def __init__(
        self,
        address: str,
        *,
        max_concurrent_rpcs: int | None = None,
        shared: bool = False,
        connection_age_s: float | None = None,
    ) -> None:
        self.address = address
        options = SHARED_PORT_OPTIONS if shared else SERVER_OPTIONS
        # A Unix socket has one copy behind it.
        if connection_age_s is not None and not address.startswith("unix:"):
            options = aged(options, connection_age_s)
        self.server = grpc.aio.server(
            interceptors=[ErrorInterceptor()],
            options=options,
            maximum_concurrent_rpcs=max_concurrent_rpcs,
        )
        self._health = health.aio.HealthServicer()
        self._names = [reflection.SERVICE_NAME, health.SERVICE_NAME]
        self.port = 0

    def offer(self, full_name: str) -> None:
        """Name a service that was registered on `server`, for reflection."""
        self._names.append(full_name)

    async def start(self) -> None:
        """Bind and serve; not ready until `set_ready(True)`. RuntimeError when the address cannot be bound."""
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self.server)
        reflection.enable_server_reflection(self._names, self.server)
        self.port = self.server.add_insecure_port(self.address)
        await self.server.start()
        await self._health.set("", health_pb2.HealthCheckResponse.SERVING)
        await self.set_ready(False)

    async def set_ready(self, ready: bool) -> None:
        """Say whether this service and everything behind it can serve."""
        response = health_pb2.HealthCheckResponse
        await self._health.set(READY_SERVICE, response.SERVING if ready else response.NOT_SERVING)

    async def stop(self, grace_s: float) -> None:
        """Say that no new work is taken, let running calls end within `grace_s`, then close."""
        await self._health.enter_graceful_shutdown()
        await self.server.stop(grace_s)
