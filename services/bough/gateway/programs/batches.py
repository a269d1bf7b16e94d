"""Questions that are asked at the same time, put in one call."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")


class Batcher(Generic[Q, A]):
    """Has few calls under way; what is asked meanwhile, or within one turn of the event loop, is gathered for the next.

    Args:
        ask: Answers questions, in their order; an answer may be an exception, for who asked.
        most: Questions of one call.
        at_once: Calls under way; with one, questions are asked in the order in which they came.
    """

    def __init__(
        self, ask: Callable[[Sequence[Q]], Awaitable[Sequence[A | Exception]]], *, most: int, at_once: int
    ) -> None:
        self._ask = ask
        self._most = most
        self._num_free = at_once
        self._waiting: list[tuple[Q, asyncio.Future[A]]] = []
        self._gathering = False
        self._tasks: set[asyncio.Task[None]] = set()

    def put(self, question: Q) -> asyncio.Future[A]:
        """Ask; what is put one after the other without waiting stays together, up to the size of a call."""
        future: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        # Whoever asked may have gone by the time that an error is there; nobody else needs to hear of it.
        future.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting.append((question, future))
        if not self._gathering and self._num_free:
            self._gathering = True
            self._num_free -= 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return future

    async def settled(self) -> None:
        """Wait until everything asked so far is answered."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Give up what is under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _, future in self._waiting:
            future.cancel()

    async def _run(self) -> None:
        self._gathering = False
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
                await self._answer(batch)
        finally:
            self._num_free += 1

    async def _answer(self, batch: Sequence[tuple[Q, asyncio.Future[A]]]) -> None:
        batch = [(question, future) for question, future in batch if not future.done()]
        try:
            answers = await self._ask([question for question, _ in batch]) if batch else []
        except asyncio.CancelledError:
            for _, future in batch:
                future.cancel()
            raise
        except Exception as error:
            answers = [error] * len(batch)
        for (_, future), answer in zip(batch, answers, strict=True):
            if future.done():
                continue
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
