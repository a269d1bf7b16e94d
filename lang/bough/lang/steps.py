"""The queue of a state: what is done to it, one thing after the other, by a task that lives while there is work."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bough.lang.lines import Line, add_line
from bough.lang.running import Running
from bough.lang.transcript import Signal


@dataclass(frozen=True, slots=True)
class Step:
    """Something that is done to a state."""

    run: Callable[[], Awaitable[None]]
    fail: Callable[[BaseException], None]
    """Told why, where it fails or is not done."""
    line: Line
    """Where the program says so."""


class StepQueue:
    """Steps in their order. Used within the event loop.

    After an error nothing more is done: the steps behind one that failed, and all that come later, fail with its error.

    Args:
        running: Owns the task.
        is_open: Steps may be done; else they wait for `open`.
        after_step: Called after each step, whatever came of it.
    """

    __slots__ = ("_after_step", "_current", "_is_open", "_rested", "_running", "_steps", "_task", "error")

    def __init__(self, running: Running, *, is_open: bool, after_step: Callable[[], None]) -> None:
        self.error: BaseException | None = None
        self._running = running
        self._is_open = is_open
        self._after_step = after_step
        self._steps: deque[Step] = deque()
        self._current: Step | None = None
        self._task: asyncio.Task[None] | None = None
        self._rested = Signal()

    def push(self, *steps: Step) -> None:
        """Add steps."""
        if self.error is not None:
            self._fail(steps, self.error)
            return
        self._steps.extend(steps)
        if self._is_open and self._steps and self._task is None:
            self._task = self._running.start(self._work())

    def open(self) -> None:
        """Begin."""
        self._is_open = True
        self.push()

    def stop(self, error: BaseException) -> None:
        """Cancel the step under way, and fail all with this error."""
        if self.error is not None:
            return
        self.error = error
        left = ([] if self._current is None else [self._current]) + list(self._steps)
        self._steps.clear()
        self._fail(left, error)
        if self._task is not None:
            self._task.cancel()
        self._rested.fire()

    async def idle(self) -> None:
        """Until there is nothing to do."""
        while self._task is not None or self._steps:
            await self._rested.wait()

    async def _work(self) -> None:
        try:
            while self._steps:
                step = self._current = self._steps.popleft()
                try:
                    await step.run()
                except Exception as error:
                    add_line(error, step.line)
                    self._running.failed(error)
                    # The task is this one and must not be cancelled by `stop`.
                    self._task = None
                    self.stop(error)
                    return
                self._after_step()
        finally:
            self._current = self._task = None
            self._rested.fire()

    def _fail(self, steps: list[Step] | tuple[Step, ...], error: BaseException) -> None:
        for step in steps:
            step.fail(error)
        self._after_step()
