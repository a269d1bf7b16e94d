"""Metrics of a process and of those behind it, so that one scrape at the gateway shows the whole deployment."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

import grpc.aio

from bough.common.telemetry import Telemetry
from bough.rpc.v1 import telemetry_pb2 as pb
from bough.rpc.v1 import telemetry_pb2_grpc

logger = logging.getLogger(__name__)

PEER_TIMEOUT_S = 1.0
"""How long a peer may take; one that is down or stuck is left out."""

Peers = Callable[[], Mapping[str, grpc.aio.Channel]]
"""Tells who is behind a service now, every copy of it, and the channel to each."""


async def peer_metrics(
    channels: Mapping[str, grpc.aio.Channel], *, timeout_s: float = PEER_TIMEOUT_S
) -> list[pb.ProcessMetrics]:
    """The metrics of peers and of what is behind them, asked for at the same time; dead ones are left out."""
    answers = await asyncio.gather(*(_ask(name, channel, timeout_s) for name, channel in channels.items()))
    return [process for answer in answers for process in answer]


async def _ask(name: str, channel: grpc.aio.Channel, timeout_s: float) -> list[pb.ProcessMetrics]:
    stub = telemetry_pb2_grpc.IntrospectionServiceStub(channel)
    try:
        answer: pb.MetricsResponse = await stub.Metrics(pb.MetricsRequest(), timeout=timeout_s)
    except grpc.aio.AioRpcError as error:
        logger.debug("no metrics from %s: %s", name, error.code().name)
        return []
    return list(answer.processes)


class IntrospectionServicer(telemetry_pb2_grpc.IntrospectionServiceServicer):
    """Answers with the metrics of this process, then those of its peers.

    Args:
        telemetry: This process's.
        peers: Who is behind this service; nobody when None.
        timeout_s: How long a peer may take.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        peers: Peers | None = None,
        *,
        timeout_s: float = PEER_TIMEOUT_S,
    ) -> None:
        self._telemetry = telemetry
        self._peers = peers or dict
        self._timeout_s = timeout_s

    async def Metrics(
        self, request: pb.MetricsRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.MetricsResponse:
        """This process first."""
        # Formatting takes milliseconds with many series, which the loop must not wait for.
        exposition = await asyncio.to_thread(self._telemetry.exposition)
        # The peers' answer must arrive before the caller gives up on ours, or a dead peer hides this process too.
        left_s = context.time_remaining()
        timeout_s = self._timeout_s if left_s is None else min(self._timeout_s, left_s * 0.7)
        mine = pb.ProcessMetrics(
            service=self._telemetry.service, instance=self._telemetry.instance, exposition=exposition
        )
        return pb.MetricsResponse(processes=[mine, *await peer_metrics(self._peers(), timeout_s=timeout_s)])
