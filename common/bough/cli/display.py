"""What a person sees of the launcher: progress while loading, who is down and why, the services' own lines."""

from __future__ import annotations

import contextlib
import re
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.status import Status

_LOG_LINE = re.compile(r"^\d\d:\d\d:\d\d [A-Z]+ +([\w-]+) ")


class Display:
    """Writes to one stream; a watcher of the supervisor.

    Args:
        names: The services that are started.
        stream: Where to write; a terminal gets a live line while loading.
        plain_lines: Leave the services' lines as they are, for machines that parse them.
    """

    def __init__(self, names: Iterable[str], *, stream: TextIO = sys.stderr, plain_lines: bool = False) -> None:
        self._loading = dict.fromkeys(names, 0.0)
        self._stream = stream
        self._plain_lines = plain_lines
        self._began = time.monotonic()
        self._console: Console | None = None
        self._status: Status | None = None

    def begin(self, what: str) -> None:
        """Loading begins."""
        self._began = time.monotonic()
        if self._stream.isatty():
            # Imported late: rich is for terminals, and a launcher in a container has none.
            from rich.console import Console

            self._console = Console(file=self._stream, highlight=False, markup=False)
            self._status = self._console.status(f"starting {what}")
            self._status.start()
        else:
            self.say(f"starting {what}: {', '.join(self._loading)}")

    def loaded(self, name: str) -> None:
        """A service listens."""
        if self._loading.pop(name, None) is not None:
            seconds = time.monotonic() - self._began
            self.say(f"{name} is up after {seconds:.1f} s")
            self._refresh()

    def waiting_for(self, reason: str) -> None:
        """All services listen, but the chain cannot serve yet."""
        if self._status is not None and self._console is not None:
            room = self._console.width - len("* waiting: ")
            shown = reason if len(reason) <= room else reason[: room - 1] + "…"
            self._status.update(f"waiting: {shown}")

    def end(self) -> None:
        """Loading is over, well or not."""
        if self._status is not None:
            self._status.stop()
            self._status = None

    def say(self, text: str) -> None:
        """Write a line of the launcher's own."""
        self._write(text if self._plain_lines else f"bough: {text}")

    def started(self, name: str) -> None:
        """A process was started."""
        self._refresh()

    def line(self, name: str, text: str) -> None:
        """A process wrote a line; it is given the process's name unless it carries it already."""
        match = _LOG_LINE.match(text)
        if self._plain_lines or (match is not None and match[1] == name):
            self._write(text)
        else:
            self._write(f"{name} | {text}")

    def died(self, name: str, reason: str, retry_in_s: float) -> None:
        """A process ended that nobody asked to."""
        self.say(f"{name} is down ({reason}), starting it again in {retry_in_s:.1f} s")

    def stopped(self, name: str) -> None:
        """A process ended that was asked to."""

    def _refresh(self) -> None:
        if self._status is not None:
            self._status.update(f"loading {', '.join(self._loading)}" if self._loading else "waiting for the chain")

    def _write(self, text: str) -> None:
        if self._status is not None and self._console is not None:
            self._console.print(text, soft_wrap=True)
            return
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(text + "\n")
            self._stream.flush()
