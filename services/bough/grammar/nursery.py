"""The warm process that compilers are forked from, seen from the service; started again when it dies."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from asyncio import StreamReader, StreamWriter
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bough.common.errors import ModelError

MAX_MESSAGE_BYTES = 1 << 16
_START_LIMIT_S = 120.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
"""A process with threads cannot be forked safely, and a compiler has no use for more than one."""


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Child:
    """A compiler that runs, and the connection to it."""

    pid: int
    reader: StreamReader
    writer: StreamWriter

    @property
    def is_dead(self) -> bool:
        """Whether it has closed its end."""
        return self.reader.at_eof()

    def used_s(self) -> float | None:
        """Processor time of its life, in steps of 10 ms; None where the system does not tell."""
        try:
            # Behind the name in brackets, which may have spaces, user and system time are the 12th and 13th.
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def give_way(self) -> None:
        """Let it run only where nothing else of the machine does. It cannot be taken back."""
        if sys.platform == "linux":
            with suppress(OSError):
                os.sched_setscheduler(self.pid, os.SCHED_IDLE, os.sched_param(0))


class Nursery:
    """Forks compilers of one vocabulary: libraries and vocabulary are read once, and a new one takes milliseconds.

    Args:
        path: Model directory.
        vocab_size: Rows of the model's logits.
        stop_token_ids: The model's end-of-sequence ids.
    """

    def __init__(self, path: Path, *, vocab_size: int, stop_token_ids: Collection[int]) -> None:
        self._setup = {"path": str(path), "vocab_size": vocab_size, "stop_token_ids": list(stop_token_ids)}
        self._popen: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._turn = threading.Lock()
        self.format = ""
        """Of the compiled form; known once started."""

    @property
    def pid(self) -> int | None:
        """Of the warm process; None while there is none."""
        return None if self._popen is None else self._popen.pid

    async def start(self) -> None:
        """Start the warm process. ModelError when it cannot read the model."""
        await asyncio.to_thread(self._with_turn, self._start)

    async def fork(self) -> Child:
        """A new compiler; starts the warm process where it has died. ModelError when it cannot."""
        forking = asyncio.create_task(self._fork_connected())
        try:
            return await asyncio.shield(forking)
        except asyncio.CancelledError:
            with suppress(ModelError):
                await self.kill(await forking)
            raise

    async def _fork_connected(self) -> Child:
        pid, connection = await asyncio.to_thread(self._with_turn, self._fork)
        return Child(pid, *await asyncio.open_connection(sock=connection))

    async def kill(self, child: Child) -> None:
        """End a compiler and wait until it is gone."""
        child.writer.close()
        await asyncio.shield(asyncio.to_thread(self._with_turn, self._kill, child.pid))

    async def stop(self) -> None:
        """End the warm process, and with it all compilers."""
        await asyncio.shield(asyncio.to_thread(self._with_turn, self._end))

    def _with_turn(self, do: Callable[..., T], *args: Any) -> T:
        with self._turn:
            return do(*args)

    def _start(self) -> None:
        self._end()
        self._control, theirs = socket.socketpair()
        self._control.settimeout(_START_LIMIT_S)
        with theirs:
            self._popen = _spawn(theirs.fileno())
        try:
            self.format = self._exchange(self._setup)["format"]
        except OSError:
            self._end()
            raise ModelError("the grammar compiler does not start; its standard error says why") from None

    def _fork(self) -> tuple[int, socket.socket]:
        if self._popen is None or self._popen.poll() is not None:
            self._start()
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                return int(self._exchange({"do": "fork"}, theirs.fileno())["pid"]), ours
        except OSError:
            ours.close()
            self._end()
            raise ModelError("the process that compilers are forked from has died") from None

    def _kill(self, pid: int) -> None:
        if self._popen is not None:
            with suppress(OSError):  # it is dead, and its compilers with it
                self._exchange({"do": "kill", "pid": pid})

    def _end(self) -> None:
        if self._popen is not None:
            self._popen.kill()
            self._popen.wait()
            self._popen = None
        if self._control is not None:
            self._control.close()
            self._control = None

    def _exchange(self, message: dict[str, Any], descriptor: int | None = None) -> dict[str, Any]:
        """Ask and wait for the answer. OSError where there is none."""
        assert self._control is not None
        socket.send_fds(self._control, [json.dumps(message).encode()], [] if descriptor is None else [descriptor])
        answer = self._control.recv(MAX_MESSAGE_BYTES)
        if not answer:
            raise ConnectionResetError
        found: dict[str, Any] = json.loads(answer)
        return found


def _spawn(connection: int) -> subprocess.Popen[bytes]:
    # Not by asyncio: uvloop forks, and then gRPC's handlers run in the child and crash it now and then, where calls are
    # under way. Here nothing of ours runs between the two programs.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "bough.grammar.worker"], stdin=connection, env={**os.environ, **_ONE_THREAD}
    )
