"""The scheduler as a process."""

from __future__ import annotations

import asyncio
import logging
import time

from bough.common.config import Settings
from bough.common.ids import new_epoch
from bough.common.rpc.introspection import IntrospectionServicer
from bough.common.rpc.server import RpcServer
from bough.common.service import Service
from bough.common.telemetry import Telemetry
from bough.rpc.v1 import scheduler_pb2, scheduler_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from bough.scheduler.core import Clock, Scheduler
from bough.scheduler.links import ExecutorLink, ExecutorLinks
from bough.scheduler.observer import TelemetryObserver
from bough.scheduler.policy import make_policy
from bough.scheduler.server import SchedulerServicer

logger = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.02
_RELEASE_WAIT_S = 0.5
"""How long a drain waits for consumers to confirm what was sent to them."""


class SchedulerService:
    """The core, its server and its links to executors, on one event loop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._epoch = new_epoch()
        self._telemetry = Telemetry("scheduler", otlp_endpoint=settings.otlp_endpoint)
        self.core = Scheduler(
            max_queue=settings.max_queue,
            orphan_grace_s=settings.orphan_grace_s,
            policy=make_policy(settings.policy),
            clock=Clock(monotonic_s=time.monotonic, unix_ms=lambda: time.time() * 1000),
            observer=TelemetryObserver(
                self._telemetry,
                queue_length=lambda: self.core.queue.num_records,
                executors=lambda: self.core.executors,
                programs=lambda: self.core.programs,
            ),
        )
        self._links = ExecutorLinks(settings.address_of("executor"), self._connect)
        self._server: RpcServer | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_s: float | None = None
        self._told_ready = False
        self._readiness: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Bind and look for executors; ready once one has attached."""
        server = self._server = RpcServer(self._settings.listen_address("scheduler"))
        scheduler_pb2_grpc.add_SchedulerServiceServicer_to_server(
            SchedulerServicer(self.core, epoch=self._epoch, settled=self._settled), server.server
        )
        telemetry_pb2_grpc.add_IntrospectionServiceServicer_to_server(
            IntrospectionServicer(self._telemetry, self._links.channels), server.server
        )
        server.offer(scheduler_pb2.DESCRIPTOR.services_by_name["SchedulerService"].full_name)
        server.offer(telemetry_pb2.DESCRIPTOR.services_by_name["IntrospectionService"].full_name)
        await server.start()
        self._links.start()

    async def drain(self, timeout_s: float) -> None:
        """Refuse new requests and wait until the accepted ones have ended and were delivered."""
        core = self.core
        core.draining = True
        self._settled()
        deadline_s = time.monotonic() + timeout_s
        release_by_s: float | None = None
        while core.ledger.records and (now_s := time.monotonic()) < deadline_s:
            if not core.quiet:
                release_by_s = None
            elif release_by_s is None:
                release_by_s = now_s + _RELEASE_WAIT_S
            elif now_s >= release_by_s and core.consumers:
                break
            await asyncio.sleep(_DRAIN_POLL_S)
        if core.ledger.num_under_way:
            logger.warning("%d requests had not ended when the drain was over", core.ledger.num_under_way)

    async def stop(self) -> None:
        """Close everything."""
        await self._links.close()
        if self._server is not None:
            await self._server.stop(0)
        if self._alarm is not None:
            self._alarm.cancel()
        if self._readiness is not None:
            await self._readiness
        self._telemetry.close()

    def _connect(self, address: str) -> ExecutorLink:
        return ExecutorLink(address, self.core, epoch=self._epoch, settled=self._settled)

    def _settled(self) -> None:
        """Follow a change of the core's state: set the alarm, tell the readiness."""
        due_s = self.core.timers.next_s()
        if due_s != self._alarm_s:
            if self._alarm is not None:
                self._alarm.cancel()
            self._alarm, self._alarm_s = None, due_s
            if due_s is not None:
                # A millisecond more than needed, since timers of the loop may be early by their resolution.
                delay_s = max(0.0, due_s - time.monotonic()) + 0.001
                self._alarm = asyncio.get_running_loop().call_later(delay_s, self._on_alarm)
        if self.core.ready != self._told_ready and self._server is not None:
            self._told_ready = self.core.ready
            self._readiness = asyncio.create_task(self._tell(self._server, self._readiness))

    async def _tell(self, server: RpcServer, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            await before
        await server.set_ready(self.core.ready)

    def _on_alarm(self) -> None:
        self._alarm_s = None
        self.core.tick()
        self._settled()


def create(settings: Settings) -> Service:
    """The service for these settings; binds nothing yet."""
    return SchedulerService(settings)
