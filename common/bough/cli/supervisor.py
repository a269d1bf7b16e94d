"""Child processes that are kept alive: started together, restarted with back-off, drained in order.

Nothing here knows what the children do; the launcher gives the commands and is told of what happens to them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from bough.cli.main import EXIT_USAGE

_LINE_LIMIT_BYTES = 1 << 20
_KILL_GRACE_S = 2.0
"""What a child gets beyond its own drain timeout to close its files."""


class GiveUpError(Exception):
    """A child that will not start; `name` says which, the text says why."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{name} does not start: {reason}")
        self.name = name


class Watcher(Protocol):
    """Is told what happens to the children."""

    def started(self, name: str) -> None:
        """A process was started."""

    def line(self, name: str, text: str) -> None:
        """A process wrote a line."""

    def died(self, name: str, reason: str, retry_in_s: float) -> None:
        """A process ended that nobody asked to; it starts again after `retry_in_s`."""

    def stopped(self, name: str) -> None:
        """A process ended that was asked to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildSpec:
    """What to run."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    """The child's whole environment."""
    socket: Path | None = None
    """Unix socket it will bind; what a dead one left there is removed when it ended and before it starts."""
    inherit: Sequence[int] = ()
    """Descriptors that the child keeps under their numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPolicy:
    """How soon a child that died starts again."""

    initial_backoff_s: float = 0.1
    max_backoff_s: float = 10.0
    stable_after_s: float = 30.0
    """A child that ran this long has earned a fresh start of the back-off."""
    start_attempts: int = 3
    """Deaths of one child before everything was ready once, until it is given up."""


class Supervisor:
    """Runs children until told to stop.

    Args:
        specs: The children, in the order in which they are started.
        watcher: Is told what happens.
        policy: When a dead child starts again.
    """

    def __init__(self, specs: Iterable[ChildSpec], watcher: Watcher, policy: RestartPolicy | None = None) -> None:
        policy = policy or RestartPolicy()
        self.deaths: asyncio.Queue[str] = asyncio.Queue()
        """Names of children that died and start again, for who wants to wait for them."""
        self._children = {spec.name: _Child(spec, watcher, policy, self.deaths) for spec in specs}

    async def run(self) -> None:
        """Keep the children running until `stop` ended all of them. GiveUpError when one does not start."""
        try:
            async with asyncio.TaskGroup() as group:
                for child in self._children.values():
                    group.create_task(child.run())
        except* GiveUpError as errors:
            raise errors.exceptions[0] from None

    def settle(self) -> None:
        """All of them were ready once: from now on none is given up."""
        for child in self._children.values():
            child.settled = True

    async def stop(self, order: Iterable[Iterable[str]], timeout_s: float) -> None:
        """Ask the children to end, one group after the other in `order`; kill what is left after `timeout_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s + _KILL_GRACE_S):
                for names in order:
                    group = [child for name in names if (child := self._children.get(name)) is not None]
                    for child in group:
                        child.ask_to_stop()
                    for child in group:
                        await child.ended.wait()
        await self.kill()

    async def kill(self) -> None:
        """End all children at once."""
        for child in self._children.values():
            child.kill()
        for child in self._children.values():
            await child.ended.wait()


class _Child:
    """One child through all its restarts."""

    def __init__(self, spec: ChildSpec, watcher: Watcher, policy: RestartPolicy, deaths: asyncio.Queue[str]) -> None:
        self.settled = False
        self.ended = asyncio.Event()
        self._spec = spec
        self._watcher = watcher
        self._policy = policy
        self._deaths = deaths
        self._stopping = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._last_lines: deque[str] = deque(maxlen=1)

    async def run(self) -> None:
        backoff_s, deaths = self._policy.initial_backoff_s, 0
        loop = asyncio.get_running_loop()
        try:
            while not self._stopping.is_set():
                began = loop.time()
                code = await self._run_once()
                if self._stopping.is_set():
                    self._watcher.stopped(self._spec.name)
                    return
                deaths += 1
                self._give_up_if_hopeless(code, deaths)
                if loop.time() - began >= self._policy.stable_after_s:
                    backoff_s = self._policy.initial_backoff_s
                self._watcher.died(self._spec.name, self._reason(code), backoff_s)
                if self.settled:
                    self._deaths.put_nowait(self._spec.name)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), backoff_s)
                backoff_s = min(2 * backoff_s, self._policy.max_backoff_s)
        finally:
            self.ended.set()

    def ask_to_stop(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._stopping.set()
        self._signal(signal.SIGKILL)

    async def _run_once(self) -> int:
        process, reader, transport = await self._spawn()
        self._process = process
        self._watcher.started(self._spec.name)
        reading = asyncio.create_task(self._read_lines(reader))
        try:
            if self._stopping.is_set():
                self._signal(signal.SIGTERM)
            return await process.wait()
        finally:
            # Whatever of its group outlived the process goes with it; then the pipe ends.
            self._signal(signal.SIGKILL)
            await process.wait()
            self._process = None
            self._remove_socket()  # at once, so that its return can be told by it
            await asyncio.wait({reading}, timeout=1.0)
            reading.cancel()
            transport.close()

    async def _spawn(self) -> tuple[asyncio.subprocess.Process, asyncio.StreamReader, asyncio.BaseTransport]:
        self._remove_socket()
        # Not asyncio's own PIPE: with it `wait` waits for every heir of the pipe and not for the process alone.
        read_fd, write_fd = os.pipe()
        try:
            # An own process group keeps Ctrl-C of the terminal from reaching all children at once, out of order.
            process = await asyncio.create_subprocess_exec(
                *self._spec.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=write_fd,
                stderr=write_fd,
                env=dict(self._spec.environment),
                process_group=0,
                pass_fds=self._spec.inherit,
            )
        except OSError as error:
            os.close(read_fd)
            raise GiveUpError(self._spec.name, str(error)) from error
        finally:
            os.close(write_fd)
        reader = asyncio.StreamReader(limit=_LINE_LIMIT_BYTES)
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(read_fd, "rb")
        )
        return process, reader, transport

    def _remove_socket(self) -> None:
        if self._spec.socket is not None:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._spec.socket)

    async def _read_lines(self, reader: asyncio.StreamReader) -> None:
        while True:
            try:
                raw = await reader.readline()
            except ValueError:  # longer than the limit: what was buffered is dropped
                continue
            if not raw:
                return
            text = raw.decode("utf-8", "replace").rstrip()
            if text:
                self._last_lines.append(text)
            self._watcher.line(self._spec.name, text)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)

    def _give_up_if_hopeless(self, code: int, deaths: int) -> None:
        if self.settled:
            return
        if code == EXIT_USAGE or deaths >= self._policy.start_attempts:
            raise GiveUpError(self._spec.name, self._reason(code))

    def _reason(self, code: int) -> str:
        last = f": {self._last_lines[-1]}" if self._last_lines else ""
        if code >= 0:
            return f"exit status {code}{last}"
        try:
            return f"killed by {signal.Signals(-code).name}"
        except ValueError:
            return f"killed by signal {-code}"
