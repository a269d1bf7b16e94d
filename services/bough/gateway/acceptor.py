"""Connections of a listening socket that several gateways share, spread so that each has about as many.

Left to the kernel, whichever process is woken first takes a connection, and a burst may end up with one of them; with a
socket each (SO_REUSEPORT) it is a matter of chance, and what waits at a process that dies is lost. Here a gateway that
has more connections than another one lets a new one wait for a moment before it takes it, so that the other can.
"""

from __future__ import annotations

import asyncio
import logging
import mmap
import os
import socket
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

_YIELD_S = 0.002
"""How long a busier gateway leaves a connection to the others. One that is dead or stuck delays nobody by more."""

_EXHAUSTED_S = 0.5
"""Pause when the process has no descriptor left."""

_SLOT_BYTES = 4


class LoadBoard:
    """How many connections each gateway has, in memory that all of them share.

    Args:
        path: The file behind that memory; made when absent.
        slot: This gateway's place, from 0.
        num_slots: Gateways.
    """

    def __init__(self, path: Path, slot: int, num_slots: int) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(descriptor, num_slots * _SLOT_BYTES)
            self._memory = mmap.mmap(descriptor, num_slots * _SLOT_BYTES)
        finally:
            os.close(descriptor)
        self._counts = memoryview(self._memory).cast("I")
        self._slot = slot
        self._others = [other for other in range(num_slots) if other != slot]
        self._counts[slot] = 0  # what a gateway that died here had is gone

    @property
    def mine(self) -> int:
        """Connections of this gateway."""
        return self._counts[self._slot]

    def add(self, change: int) -> None:
        """Connections were opened or closed."""
        self._counts[self._slot] += change

    @property
    def ahead(self) -> bool:
        """Whether another gateway has fewer connections."""
        mine = self.mine
        return any(self._counts[other] < mine for other in self._others)

    def close(self) -> None:
        """Let go of the memory; what this gateway had counts no longer."""
        self._counts[self._slot] = 0
        self._counts.release()
        self._memory.close()


class Acceptor:
    """Accepts connections one at a time, and leaves them to gateways with fewer.

    Args:
        listener: The shared listening socket; not blocking.
        board: Connections of all gateways. Whoever closes a connection takes it off.
        serve: Given each connection.
    """

    def __init__(self, listener: socket.socket, board: LoadBoard, serve: Callable[[socket.socket], None]) -> None:
        self._listener = listener
        self._board = board
        self._serve = serve
        self._loop = asyncio.get_running_loop()
        self._waiting: asyncio.TimerHandle | None = None
        self._loop.add_reader(listener, self._on_connection)

    def close(self) -> None:
        """Take no more, and close this process's hold on the socket."""
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self._loop.remove_reader(self._listener)
        self._listener.close()

    def _on_connection(self) -> None:
        if self._board.ahead:
            self._pause(_YIELD_S)
        else:
            self._accept()

    def _pause(self, seconds: float) -> None:
        self._loop.remove_reader(self._listener)
        self._waiting = self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._waiting = None
        self._loop.add_reader(self._listener, self._on_connection)
        self._accept()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return  # another gateway took it, or the client went away again
        except OSError as error:
            logger.error("cannot accept a connection: %s", error)
            self._pause(_EXHAUSTED_S)
            return
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._board.add(1)
        self._serve(connection)
