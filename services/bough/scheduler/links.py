"""The streams to the executors: one for each address that the executor setting stands for."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

import grpc.aio

from bough.common.rpc import endpoints
from bough.common.rpc.channel import open_channel
from bough.common.rpc.streams import ReconnectingStream
from bough.rpc.v1 import executor_pb2, executor_pb2_grpc
from bough.scheduler.codec import decode_attachment, decode_report, encode_executor_attach, encode_orders
from bough.scheduler.core import Scheduler

logger = logging.getLogger(__name__)

Stream = ReconnectingStream[executor_pb2.RunRequest, executor_pb2.RunResponse]


class ExecutorLink:
    """Carries orders to one executor and its reports back, through restarts of it.

    Args:
        address: Where it serves.
        core: Gets the reports and gives the orders.
        epoch: This scheduler's.
        settled: Called after each change of the core's state.
    """

    def __init__(self, address: str, core: Scheduler, *, epoch: int, settled: Callable[[], None]) -> None:
        self.address = address
        self.channel: grpc.aio.Channel = open_channel(address)
        self._core = core
        self._epoch = epoch
        self._settled = settled
        stub = executor_pb2_grpc.ExecutorServiceStub(self.channel)
        self._stream: Stream = ReconnectingStream(
            open_call=lambda: stub.Run(),
            hello=self._hello,
            collect=self._collect,
            on_message=self._on_message,
            on_change=self._on_change,
            peer=f"executor {address}",
        )
        self.executor = core.add_executor(address, self._stream.wake)
        self._task = asyncio.create_task(self._stream.run())

    async def close(self) -> None:
        """End the stream. Requests that run there are taken back by the core."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._core.remove_executor(self.executor)
        self._settled()
        await self.channel.close()

    def _hello(self) -> executor_pb2.RunRequest:
        return encode_executor_attach(
            scheduler_epoch=self._epoch,
            executor_epoch=self.executor.epoch,
            identity=self._core.identity,
            resumes=self.executor.resumes(),
        )

    def _collect(self) -> executor_pb2.RunRequest | None:
        orders = self.executor.collect()
        return None if orders is None else encode_orders(orders)

    def _on_message(self, message: executor_pb2.RunResponse) -> None:
        if message.HasField("attached"):
            self._core.on_executor_attached(self.executor, decode_attachment(message.attached))
            logger.info(
                "executor %s attached: %d rows, %d pages",
                self.address,
                message.attached.capacity.max_rows,
                message.attached.capacity.num_pages,
            )
        try:
            self._core.on_step(self.executor, decode_report(message))
        finally:
            self._settled()

    def _on_change(self, attached: bool) -> None:
        if not attached:
            self._core.on_executor_lost(self.executor)
        self._settled()


class ExecutorLinks:
    """Links to all copies of the executor, following its address.

    Args:
        address: The setting; see `endpoints.resolve`.
        connect: Makes the link to one address.
    """

    def __init__(self, address: str, connect: Callable[[str], ExecutorLink]) -> None:
        self._address = address
        self._connect = connect
        self._links: dict[str, ExecutorLink] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to follow the address."""
        self._task = asyncio.create_task(endpoints.watch(self._address, self._on_addresses))

    def channels(self) -> dict[str, grpc.aio.Channel]:
        """The channel to each executor, attached or not, by its address."""
        return {address: link.channel for address, link in self._links.items()}

    async def close(self) -> None:
        """End all streams."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._on_addresses(frozenset())
        await asyncio.gather(*self._closing)

    def _on_addresses(self, addresses: frozenset[str]) -> None:
        for address in self._links.keys() - addresses:
            task = asyncio.create_task(self._links.pop(address).close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)
        for address in sorted(addresses - self._links.keys()):
            self._links[address] = self._connect(address)
