"""The services of an engine: a launcher in a thread of its own, whose event loop also carries the engine's calls."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import logging
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from bough.cli.serve import Launcher, launching
from bough.cli.supervisor import GiveUpError
from bough.client import AsyncClient
from bough.common.config import Settings
from bough.engine.errors import EngineClosedError, EngineStartError

T = TypeVar("T")

logger = logging.getLogger("bough.engine")

_ADVICE = {
    "memory": "Lower kv_pages, max_rows, token_budget or max_context.",
    "No module named": "pip install 'bough[all]' installs what the services need.",
}
"""What to do, by what the last line of a service that does not start says."""

_NUM_LINES_SHOWN = 12
"""Of what the services wrote, in the error of a start."""


class Log(io.StringIO):
    """Takes what launcher and services write: to the logger `bough.engine`, and the last lines to be shown."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: deque[str] = deque(maxlen=_NUM_LINES_SHOWN)

    def write(self, text: str) -> int:
        """Take a line."""
        for line in text.splitlines():
            self._lines.append(line)
            logger.info("%s", line)
        return len(text)

    @property
    def tail(self) -> str:
        """The last lines."""
        return "\n".join(f"  {line}" for line in self._lines)


@dataclass(frozen=True, slots=True)
class Running:
    """Services that can be called."""

    loop: asyncio.AbstractEventLoop
    client: AsyncClient
    """Belongs to the loop."""
    url: str
    grpc_port: int | None
    api_key: str


class Services:
    """Starts the services when it is made. They end when it is closed, and with the process in any case.

    Args:
        settings: Those of a launcher; with a port of 0, and an API key.
        command: A command line that does the same, for who wants to see more.
    """

    def __init__(self, settings: Settings, command: str) -> None:
        self._settings = settings
        self._command = command
        self._log = Log()
        self._lock = threading.Lock()
        self._is_closed = False
        self._stop: Callable[[], object] | None = None
        """Set while the launcher can be asked."""
        self._calls: set[concurrent.futures.Future[Any]] = set()
        self.running: concurrent.futures.Future[Running] = concurrent.futures.Future()
        # A daemon, or the interpreter would wait for it at its end before anything can close it.
        self._thread = threading.Thread(target=self._run, name="bough-engine", daemon=True)
        self._thread.start()

    def call(
        self, running: Running, work: Callable[[AsyncClient], Coroutine[Any, Any, T]]
    ) -> concurrent.futures.Future[T]:
        """Begin a call in the loop of the services. EngineClosedError where they have ended."""
        with self._lock:
            if self._is_closed:
                raise self.closed()
            future = asyncio.run_coroutine_threadsafe(work(running.client), running.loop)
            self._calls.add(future)
        future.add_done_callback(self._calls.discard)
        return future

    def close(self) -> None:
        """End the services and cancel the calls under way; returns when all processes have ended."""
        with self._lock:
            self._is_closed = True
            for call in list(self._calls):
                call.cancel()
            if self._stop is not None:
                self._stop()
        # A collection of garbage may close it in any thread.
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def is_closed(self) -> bool:
        """They have ended or are about to."""
        return self._is_closed

    def closed(self) -> EngineClosedError:
        """The error of a call that comes too late."""
        return EngineClosedError("the engine is closed; make another one")

    def _run(self) -> None:
        ended: BaseException = self.closed()
        try:
            with launching(self._settings, stream=self._log) as launcher:
                asyncio.run(self._serve(launcher))
        except GiveUpError as error:
            ended = EngineStartError(self._advice(error))
        except BaseException as error:
            # Whatever it is, who waits for the start must hear of it.
            ended = error
        if not self.running.done():
            self.running.set_exception(ended)
        elif not isinstance(ended, EngineClosedError):
            logger.error("the services ended", exc_info=ended)

    async def _serve(self, launcher: Launcher) -> None:
        loop, asks = asyncio.get_running_loop(), asyncio.Queue[None]()
        url = f"http://{launcher.settings.host}:{launcher.settings.port}"
        key = launcher.settings.api_key
        api_key = "" if key is None else key.get_secret_value()
        async with AsyncClient(url, api_key=api_key) as client:
            running = Running(loop, client, url, launcher.settings.grpc_port, api_key)
            with self._lock:
                if self._is_closed:
                    return
                self._stop = partial(loop.call_soon_threadsafe, asks.put_nowait, None)
            try:
                await launcher.serve(asks, lambda _: self.running.set_result(running))
            finally:
                with self._lock:
                    self._is_closed, self._stop = True, None

    def _advice(self, error: GiveUpError) -> str:
        advice = [advice for sign, advice in _ADVICE.items() if sign in str(error)]
        advice.append(f"`{self._command}` in a terminal shows all of it.")
        return "\n".join([f"{error}", "The services wrote last:", self._log.tail, *advice])
