"""`bough serve` as the thing measured: how soon it is ready, and what each of its processes uses."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from bough.common.config import SERVICES
from bough.load import machine
from bough.load.children import PeerFailed, own_path, server
from bough.load.http_client import Target, exchange
from bough.load.machine import Usage

LAUNCHER = "launcher"
_POLL_S = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that is ready."""

    target: Target
    pid: int
    ready_s: float
    """From the start of its first process until it took requests."""

    def usage(self) -> dict[str, Usage]:
        """What each service of a `bough serve` has used, all copies together, and the launcher without them."""
        found: dict[str, Usage] = {}
        for child in machine.children(self.pid):
            words = machine.command_line(child)
            name = next((name for name in SERVICES if name in words), None)
            if name is not None:
                copy, others = machine.usage(child), found.get(name, Usage(cpu_s=0.0, resident_mb=0.0))
                found[name] = Usage(cpu_s=copy.cpu_s + others.cpu_s, resident_mb=copy.resident_mb + others.resident_mb)
        whole = machine.usage(self.pid)
        found[LAUNCHER] = Usage(
            cpu_s=whole.cpu_s - sum(part.cpu_s for part in found.values()),
            resident_mb=whole.resident_mb - sum(part.resident_mb for part in found.values()),
        )
        return found


@asynccontextmanager
async def bough_server(model_dir: Path, port: int, log: Path, *flags: str) -> AsyncIterator[RunningServer]:
    """`bough serve`, ready."""
    command = [sys.executable, "-P", "-m", "bough.cli.main", "serve", str(model_dir), "--port", str(port), *flags]
    async with ready_server(command, "/ready", port, log, own_path()) as running:
        yield running


@asynccontextmanager
async def ready_server(
    command: list[str], path: str, port: int, log: Path, environment: dict[str, str] | None = None
) -> AsyncIterator[RunningServer]:
    """Any server, once `path` answers 200.

    Raises:
        PeerFailed: it ends before, or takes longer than five minutes; or another server has the port, and would be
            measured in its stead.
    """
    target = Target("127.0.0.1", port, "", False)
    if await _answers(port):
        raise PeerFailed(f"another server listens at port {port}: end it, or choose another --port")
    began = time.perf_counter()
    async with server(command, log, environment) as pid:
        while (await exchange(target, target.get(path), timeout_s=10.0)).status != 200:
            if time.perf_counter() - began > 300 or not any(machine.command_line(pid)):
                raise PeerFailed(f"{' '.join(command[:4])} does not get ready; see {log}")
            await asyncio.sleep(_POLL_S)
        yield RunningServer(target=target, pid=pid, ready_s=time.perf_counter() - began)


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def cpu_between(before: dict[str, Usage], after: dict[str, Usage]) -> dict[str, float]:
    """CPU seconds that each process used between two looks."""
    return {name: after[name].cpu_s - usage.cpu_s for name, usage in before.items() if name in after}
