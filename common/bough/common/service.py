"""Running one service as a process: event loop, signals, drain."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from collections.abc import Awaitable
from typing import Protocol

import uvloop

from bough.common.errors import BoughError, ModelError

logger = logging.getLogger(__name__)


class Service(Protocol):
    """What a service process runs."""

    async def start(self) -> None:
        """Bind addresses and begin to serve. BoughError when that cannot be."""

    async def drain(self, timeout_s: float) -> None:
        """Take no new work and wait for the accepted one, `timeout_s` at most."""

    async def stop(self) -> None:
        """End everything; called after `drain`, or alone when there is no time."""


async def run_until_signal(service: Service, *, drain_timeout_s: float) -> None:
    """Start a service, wait for SIGTERM or SIGINT, drain and stop it. A second signal skips the drain."""
    loop = asyncio.get_running_loop()
    asked, hurried = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (hurried if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    await service.start()
    try:
        await asked.wait()
        logger.info("draining, %.0f s at most", drain_timeout_s)
        await _first(service.drain(drain_timeout_s), hurried.wait())
    finally:
        await service.stop()


async def _first(*awaitables: Awaitable[object]) -> None:
    tasks = [asyncio.ensure_future(a) for a in awaitables]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        for task in tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task


def run_service(name: str, service: Service, *, drain_timeout_s: float) -> None:
    """Run a service in this process until it is asked to end; exits with 2 for an unusable model, 1 if it cannot be."""
    try:
        uvloop.run(run_until_signal(service, drain_timeout_s=drain_timeout_s))
    except BoughError as error:
        logger.critical("%s ends: %s", name, error)
        sys.exit(2 if isinstance(error, ModelError) else 1)
