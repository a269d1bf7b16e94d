"""One run of a program: its session, the tasks that belong to it, the errors that nobody has seen yet."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from bough.lang.backends.base import Session
from bough.lang.errors import StateError
from bough.lang.sampling import Sampling

if TYPE_CHECKING:
    from bough.lang.core import StateCore

T = TypeVar("T")


class Running:
    """One run of a program. Made in the event loop that it lives in.

    Args:
        session: Where its states are.
        defaults: Sampling options for calls that say nothing.
    """

    def __init__(self, session: Session, defaults: Sampling) -> None:
        self.session = session
        self.defaults = defaults
        self.states: dict[StateCore, None] = {}
        """Those that were neither released nor joined, in the order in which they were made."""
        self.is_closed = False
        self._is_cancelled = False
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failures: list[BaseException] = []
        self._seen: list[BaseException] = []

    def post(self, action: Callable[[], None]) -> None:
        """Have something done in the loop, in the order of the calls, from whatever thread.

        Raises:
            StateError: The run is over.
            CancelledError: It was cancelled.
        """
        if self.is_closed:
            raise self._over()
        if threading.get_ident() == self._thread:
            action()
        else:
            self._loop.call_soon_threadsafe(action)

    def start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """A task of this run; called in the loop."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine, for a program in a thread of its own.

        Raises:
            StateError: The run is over.
            CancelledError: It was cancelled.
        """
        if self.is_closed or threading.get_ident() == self._thread:
            work.close()
            if self.is_closed:
                raise self._over()
            raise RuntimeError("a State waits, and would wait for ever in the thread of the event loop: use AsyncState")
        try:
            return asyncio.run_coroutine_threadsafe(self._owned(work), self._loop).result()
        except concurrent.futures.CancelledError:
            raise self._over() from None

    async def in_thread(self, program: Callable[[], T]) -> T:
        """Run a plain function in a thread of its own. A cancellation closes the run, and waits for the thread."""
        loop, done = self._loop, self._loop.create_future()
        context = contextvars.copy_context()

        def work() -> None:
            try:
                value = context.run(program)
            except BaseException as error:
                # No future takes a StopIteration.
                failure = (
                    RuntimeError("the program raised StopIteration") if isinstance(error, StopIteration) else error
                )
                loop.call_soon_threadsafe(done.set_exception, failure)
            else:
                loop.call_soon_threadsafe(done.set_result, value)

        # A thread each, not a pool: programs that run programs would wait in it for one another.
        threading.Thread(target=work, name="bough-program", daemon=True).start()
        try:
            return await asyncio.shield(done)
        except asyncio.CancelledError:
            if not done.done():
                self._is_cancelled = True
                await self.close()
                await asyncio.wait([done])
            if done.done() and not done.cancelled():
                done.exception()
            raise

    def failed(self, error: BaseException) -> None:
        """A call has failed."""
        if not any(known is error for known in self._failures):
            self._failures.append(error)

    def saw(self, error: BaseException) -> None:
        """The program is being told of an error."""
        self._seen.append(error)

    async def finish(self) -> None:
        """Wait until everything is done that was added to any state.

        Raises:
            Exception: The first error that the program has not been told of.
        """
        while self._tasks:
            await asyncio.wait(self._tasks)
        for error in self._failures:
            if not any(seen is error for seen in self._seen):
                raise error

    async def close(self) -> None:
        """Cancel what is under way, and end all who wait."""
        self.is_closed = True
        for state in list(self.states):
            state.stop(StateError("the program ended before this was done"))
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _over(self) -> BaseException:
        # A program that is cancelled must not take it for an error that it can handle.
        return asyncio.CancelledError() if self._is_cancelled else StateError("the program has ended")

    async def _owned(self, work: Coroutine[Any, Any, T]) -> T:
        task = asyncio.current_task()
        assert task is not None
        if self.is_closed:
            work.close()
            raise asyncio.CancelledError  # `wait` says which it is.
        self._tasks.add(task)
        try:
            return await work
        finally:
            self._tasks.discard(task)
