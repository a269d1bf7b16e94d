"""The thread that owns model and engine. Orders go in through a mailbox, reports come out on the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from bough.executor.engine import Engine
from bough.executor.orders import Admission, Orders, StepReport
from bough.executor.running import Matcher

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """Orders, and matchers of the requests in it that have a grammar."""

    orders: Orders
    matchers: dict[int, Matcher]

    def matcher_of(self, admission: Admission) -> Matcher | None:
        """The matcher of one request."""
        return self.matchers.get(admission.request)


class EngineLoop:
    """Runs steps as long as there is work, and sleeps otherwise.

    Args:
        build: Loads the model and makes the engine, on the thread.
        on_ready: Called on the event loop with the engine, once.
        on_report: Called on the event loop with each report.
        on_failure: Called on the event loop when the thread ends by an error.
    """

    def __init__(
        self,
        *,
        build: Callable[[], Engine],
        on_ready: Callable[[Engine], None],
        on_report: Callable[[StepReport], None],
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._build = build
        self._on_ready = on_ready
        self._on_report = on_report
        self._on_failure = on_failure
        self._events = asyncio.get_running_loop()
        self._mailbox: deque[Mail | Callable[[Engine], None]] = deque()
        self._wakeup = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Load, then run."""
        self._thread.start()

    def send(self, mail: Mail) -> None:
        """Orders for the next gap between two steps."""
        self._mailbox.append(mail)
        self._wakeup.set()

    async def ask(self, question: Callable[[Engine], list[bytes]]) -> list[bytes]:
        """Have the thread look something up between two steps."""
        answer: asyncio.Future[list[bytes]] = self._events.create_future()

        def look(engine: Engine) -> None:
            self._events.call_soon_threadsafe(_settle, answer, question(engine))

        self._mailbox.append(look)
        self._wakeup.set()
        return await answer

    def stop(self) -> None:
        """End after the step under way."""
        self._stopping = True
        self._wakeup.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        try:
            engine = self._build()
            self._events.call_soon_threadsafe(self._on_ready, engine)
            self._loop(engine)
        except BaseException as error:
            self._tell(self._on_failure, error)

    def _loop(self, engine: Engine) -> None:
        while not self._stopping:
            if engine.is_idle and not self._mailbox:
                self._wakeup.wait()
                self._wakeup.clear()
            while self._mailbox:
                mail = self._mailbox.popleft()
                if isinstance(mail, Mail):
                    engine.apply(mail.orders, mail.matcher_of)
                else:
                    mail(engine)
            report = engine.step()
            if report is not None:
                self._tell(self._on_report, report)

    def _tell(self, callback: Callable[[T], None], value: T) -> None:
        if not self._events.is_closed():
            self._events.call_soon_threadsafe(callback, value)


def _settle(answer: asyncio.Future[list[bytes]], value: list[bytes]) -> None:
    if not answer.done():
        answer.set_result(value)
