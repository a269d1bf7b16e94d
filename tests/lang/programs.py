"""Helpers for tests of programs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from bough.lang import AsyncState, Fake, FakeCall, Result, State, function


class Gate:
    """An answer that comes when the test lets it: `Fake(gate.answer)`."""

    def __init__(self, answer: str = "late") -> None:
        self._answer = answer
        self._open = asyncio.Event()
        self._arrived = asyncio.Condition()
        self._num_arrived = 0

    async def answer(self, call: FakeCall) -> str:
        async with self._arrived:
            self._num_arrived += 1
            self._arrived.notify_all()
        await self._open.wait()
        return self._answer

    async def until_arrived(self, count: int = 1) -> None:
        async with self._arrived:
            await self._arrived.wait_for(lambda: self._num_arrived >= count)

    def open(self) -> None:
        self._open.set()


@asynccontextmanager
async def no_task_left() -> AsyncIterator[None]:
    """Fails where the block leaves a task behind."""
    before = asyncio.all_tasks()
    yield
    assert asyncio.all_tasks() - before == set()


def run(program: Callable[[State], None], backend: Fake | None = None) -> Result[None]:
    """Run a plain function of a state."""
    return function(program).run(backend=backend or Fake())


async def arun(program: Callable[[AsyncState], None], backend: Fake | None = None) -> Result[None]:
    """Run a function that only adds to a state, as an async program."""

    @function
    async def whole(s: AsyncState) -> None:
        program(s)

    return await whole.arun(backend=backend or Fake())
