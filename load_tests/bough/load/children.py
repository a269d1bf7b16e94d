"""Processes that a benchmark starts: workers that answer cases line by line, and servers; none outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

_GRACE_S = 15.0
_LINE_LIMIT_BYTES = 1 << 26


class PeerFailed(Exception):
    """A process did not start or did not answer; the text says where its log is."""


async def ended(process: asyncio.subprocess.Process) -> None:
    """Ask a process to end, and kill it when it does not; a stopped one is woken for that."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        process.send_signal(signal.SIGCONT)
    try:
        await asyncio.wait_for(process.wait(), _GRACE_S)
    except TimeoutError:
        process.kill()
        await process.wait()


async def _group_ended(process: asyncio.subprocess.Process) -> None:
    await ended(process)
    # What the process left of its own: engines run in processes below it.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def own_path() -> dict[str, str]:
    """What a process of ours needs where our packages are found by PYTHONPATH; nothing where they are installed."""
    return {name: os.environ[name] for name in ("PYTHONPATH",) if name in os.environ}


def _environment(extra: Mapping[str, str]) -> dict[str, str]:
    # A peer's interpreter has an environment of its own, and must not find ours on its path.
    inherited = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return {**inherited, "PYTHONSAFEPATH": "1", **extra}


class Worker:
    """A program that takes a JSON line a case and answers one; the first line it writes says that it is ready.

    Args:
        process: The program, with pipes.
        log: Where its standard error goes.
        pauses: Stop it while it has no case to run.
    """

    def __init__(self, process: asyncio.subprocess.Process, log: Path, *, pauses: bool = True) -> None:
        self._process = process
        self._log = log
        self._pauses = pauses
        self.ready: dict[str, Any] = {}

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for its first line. From then on it may be stopped whenever it has no case to run."""
        self.ready = await self._read(timeout_s)
        self._signal(signal.SIGSTOP)

    async def ask(self, case: Mapping[str, Any], timeout_s: float = 300.0) -> dict[str, Any]:
        """Have it run a case."""
        assert self._process.stdin is not None
        self._signal(signal.SIGCONT)
        self._process.stdin.write(json.dumps(case).encode() + b"\n")
        await self._process.stdin.drain()
        answer = await self._read(timeout_s)
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        if not self._pauses:
            return
        # An engine that waits may still spin on the cores on which another one is being measured.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    async def _read(self, timeout_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        try:
            line = await asyncio.wait_for(self._process.stdout.readline(), timeout_s)
            answer: dict[str, Any] = json.loads(line)
        except (TimeoutError, ValueError) as error:
            raise PeerFailed(f"no answer ({type(error).__name__}); see {self._log}") from None
        return answer


@asynccontextmanager
async def worker(
    command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None, *, pauses: bool = True
) -> AsyncIterator[Worker]:
    """A worker, started; not ready yet."""
    with log.open("wb") as stderr:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
            env=_environment(environment or {}),
            limit=_LINE_LIMIT_BYTES,
            start_new_session=True,
        )
    try:
        yield Worker(process, log, pauses=pauses)
    finally:
        await _group_ended(process)


@asynccontextmanager
async def server(command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None) -> AsyncIterator[int]:
    """A server, started; not ready yet. Gives its process id."""
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=_environment(environment or {}),
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        await _group_ended(process)
