"""The thread that owns model and engine. Orders go in through a mailbox, reports come out on the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

from bough.executor.engine import Engine
from bough.executor.orders import Orders, StepReport


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
        self._mailbox: deque[Orders] = deque()
        self._reports: deque[StepReport] = deque()
        self._wakeup = threading.Event()
        self._stopping = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Load, then run."""
        self._thread.start()

    def send(self, orders: Orders) -> None:
        """Orders for the next gap between two steps; kept while the model loads."""
        self._mailbox.append(orders)
        self._wakeup.set()

    def stop(self) -> None:
        """End after the step under way."""
        self._stopping = True
        self._wakeup.set()
        if self._thread.is_alive():
            self._thread.join(timeout=10.0)

    def _run(self) -> None:
        try:
            engine = self._build()
            self._tell(lambda: self._on_ready(engine))
            self._loop(engine)
        except BaseException as error:
            # Kept, and with its traceback the engine: pinned memory that is freed after the GPU has failed aborts the
            # process, which is to report first.
            self._failure = error
            self._tell(lambda error=error: self._on_failure(error))  # type: ignore[misc]

    def _loop(self, engine: Engine) -> None:
        report: StepReport | None = None
        while not self._stopping:
            if report is None and not self._mailbox and not engine.is_under_way:
                # The last step found nothing to do, and only orders can change that.
                self._wakeup.wait()
                self._wakeup.clear()
            while self._mailbox:
                engine.apply(self._mailbox.popleft())
            report = engine.step()
            if report is not None:
                self._hand_over(report)

    def _hand_over(self, report: StepReport) -> None:
        # One wake-up of the event loop for all that has gathered since it last looked.
        self._reports.append(report)
        if len(self._reports) == 1:
            self._tell(self._deliver)

    def _deliver(self) -> None:
        try:
            while self._reports:
                self._on_report(self._reports.popleft())
        finally:
            if self._reports:  # one report could not be dealt with; the others must not wait for ever
                self._events.call_soon(self._deliver)

    def _tell(self, callback: Callable[[], None]) -> None:
        with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody is left to listen
            self._events.call_soon_threadsafe(callback)
