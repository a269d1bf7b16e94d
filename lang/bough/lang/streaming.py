"""A run whose text is read while it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Generic, Self, TypeVar

from bough.lang.core import StateCore
from bough.lang.errors import StateError
from bough.lang.result import Result
from bough.lang.variables import Variable

R = TypeVar("R")

Start = Callable[[], AbstractAsyncContextManager[tuple[StateCore, Callable[[], Awaitable[Result[R]]]]]]


class AsyncStream(Generic[R]):
    """The text of a run as it comes. Leaving the context, or closing it, cancels what is under way.

    Args:
        start: Opens a run: gives its state, and what runs the program on it.
        var: The variable whose text is told; None: all text.
    """

    def __init__(self, start: Start[R], var: str | None) -> None:
        self._texts = self._run(start, var)
        self._result: Result[R] | None = None

    @property
    def result(self) -> Result[R]:
        """What the run gave, once it has been read to the end."""
        if self._result is None:
            raise StateError("result: the run has not ended; read its text to the end first")
        return self._result

    def __aiter__(self) -> AsyncGenerator[str, None]:
        return self._texts

    async def aclose(self) -> None:
        """End the run."""
        await self._texts.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _run(self, start: Start[R], var: str | None) -> AsyncGenerator[str, None]:
        async with start() as (core, run):
            ended = Variable(None, core.transcript)
            task = asyncio.create_task(self._end(run, ended))
            try:
                async with aclosing(core.follow(ended, lambda source: var is None or _is_of(source, var))) as texts:
                    async for text in texts:
                        yield text
            finally:
                task.cancel()
                await asyncio.wait([task])

    async def _end(self, run: Callable[[], Awaitable[Result[R]]], ended: Variable) -> None:
        try:
            self._result = await run()
            ended.set(None)
        except Exception as error:
            ended.fail(error)
        finally:
            if ended.transcript is not None:
                ended.transcript.wake()


class Stream(Generic[R]):
    """As `AsyncStream`, for code that is not async; between two texts nothing goes on."""

    def __init__(self, stream: AsyncStream[R]) -> None:
        self._stream = stream
        self._texts = self._run()

    @property
    def result(self) -> Result[R]:
        """What the run gave, once it has been read to the end."""
        return self._stream.result

    def __iter__(self) -> Iterator[str]:
        return self._texts

    def close(self) -> None:
        """End the run."""
        self._texts.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> Generator[str, None, None]:
        texts = aiter(self._stream)
        with asyncio.Runner() as runner:
            try:
                while True:
                    try:
                        yield runner.run(anext(texts))
                    except StopAsyncIteration:
                        return
            finally:
                runner.run(self._stream.aclose())


def _is_of(source: object, name: str) -> bool:
    return isinstance(source, Variable) and source.name == name
