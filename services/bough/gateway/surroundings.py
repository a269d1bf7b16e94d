"""What is behind the gateway, seen as a whole: whether it can serve, and what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.errors import BoughError, UnavailableError
from bough.common.model import ModelIdentity
from bough.common.rpc.channel import from_rpc_error, open_channel
from bough.common.rpc.endpoints import resolve
from bough.common.rpc.introspection import peer_metrics
from bough.common.rpc.server import READY_SERVICE
from bough.common.telemetry import Telemetry
from bough.gateway.detokenizers import DetokenizerPool
from bough.gateway.exposition import ProcessMetrics
from bough.gateway.peers import GrammarCompiler, Tokenizer

_CHECK_S = 2.0


class Surroundings:
    """Asks the services behind the gateway for their health and their metrics.

    Args:
        tokenizer: The tokenizer.
        grammar: The grammar service.
        pool: The detokenizers, which speak for scheduler and executors too.
        identity: The model served.
        telemetry: The gateway's own.
        siblings: Addresses of the other gateways that share this one's ports, for their metrics.
    """

    def __init__(
        self,
        *,
        tokenizer: Tokenizer,
        grammar: GrammarCompiler,
        pool: DetokenizerPool,
        identity: ModelIdentity,
        telemetry: Telemetry,
        siblings: Iterable[str] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._grammar = grammar
        self._pool = pool
        self._identity = identity
        self._telemetry = telemetry
        self._siblings = frozenset(siblings)
        self._scraped: dict[str, grpc.aio.Channel] = {}

    async def troubles(self) -> dict[str, str]:
        """What is down and why; empty when the whole chain can serve."""
        names = ("tokenizer", "grammar", "detokenizer")
        checks: tuple[Callable[[], Awaitable[None]], ...] = (
            lambda: self._check_peer(self._tokenizer),
            lambda: self._check_peer(self._grammar),
            self._check_detokenizers,
        )
        results = await asyncio.gather(*(_trouble(check) for check in checks))
        return {name: trouble for name, trouble in zip(names, results, strict=True) if trouble}

    async def metrics(self) -> list[ProcessMetrics]:
        """The gateway's own metrics first, then those of its siblings and of all services that answer."""
        own = ProcessMetrics(
            service=self._telemetry.service,
            instance=self._telemetry.instance,
            exposition=self._telemetry.exposition(),
        )
        addresses = await asyncio.gather(
            *(resolve(peer.address) for peer in (self._tokenizer.peer, self._grammar.peer))
        )
        channels = self._channels(self._siblings.union(*addresses))
        channels |= {copy.address: copy.channel for copy in self._pool.copies if copy.attached}
        answers = await peer_metrics(channels)
        return [
            own,
            *(ProcessMetrics(service=a.service, instance=a.instance, exposition=a.exposition) for a in answers),
        ]

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close() for channel in self._scraped.values()))

    def _channels(self, addresses: frozenset[str]) -> dict[str, grpc.aio.Channel]:
        """A channel to each copy: those for calls lead to whichever copy is next."""
        for address in addresses - self._scraped.keys():
            self._scraped[address] = open_channel(address)
        return {address: self._scraped[address] for address in addresses}

    async def _check_peer(self, peer: Tokenizer | GrammarCompiler) -> None:
        await peer.check(self._identity)
        await _check_ready(peer.peer.channels, peer.peer.name)

    async def _check_detokenizers(self) -> None:
        attached = [copy.channel for copy in self._pool.copies if copy.attached]
        if not attached:
            raise UnavailableError(self._pool.trouble())
        await _check_ready(attached, "detokenizer")


async def _trouble(check: Callable[[], Awaitable[None]]) -> str:
    try:
        await check()
    except BoughError as error:
        return str(error)
    return ""


async def _check_ready(channels: Iterable[grpc.aio.Channel], name: str) -> None:
    """Raise UnavailableError unless one of the channels leads to a service that is ready."""
    reason = f"{name} has no address"
    for channel in channels:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=READY_SERVICE), timeout=_CHECK_S)
        except grpc.aio.AioRpcError as error:
            reason = str(from_rpc_error(error, peer=name))
            continue
        if answer.status == health_pb2.HealthCheckResponse.SERVING:
            return
        reason = f"{name} is not ready"
    raise UnavailableError(reason)
