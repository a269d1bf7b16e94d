"""Many runs at once, so many at a time."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from bough.lang.errors import ExpressionError
from bough.lang.result import Result

R = TypeVar("R")

DEFAULT_CONCURRENCY = 64


async def gather_results(
    runs: Sequence[Callable[[], Awaitable[Result[R]]]],
    *,
    concurrency: int,
    progress: bool | None,
    raise_errors: bool,
    title: str,
) -> list[Result[R]]:
    """Results in the order of the runs.

    Args:
        runs: Each starts one.
        concurrency: How many are under way at most.
        progress: Show a bar; None: where standard error is a terminal.
        raise_errors: Raise the first error and cancel the rest, instead of returning each in its place.
        title: What the bar is called.
    """
    if concurrency < 1:
        raise ExpressionError(f"concurrency: got {concurrency}, accepted is a number from 1", field="concurrency")
    results: list[Result[R]] = [Result() for _ in runs]
    left = iter(enumerate(runs))

    async def work(tell: Callable[[], None]) -> None:
        for index, run in left:
            try:
                results[index] = await run()
            except Exception as error:
                if raise_errors:
                    raise
                results[index] = Result(error=error)
            tell()

    with _bar(title, len(runs), progress) as tell:
        workers = [asyncio.create_task(work(tell)) for _ in range(min(concurrency, len(runs)))]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
    return results


@contextmanager
def _bar(title: str, total: int, progress: bool | None) -> Iterator[Callable[[], None]]:
    if progress is False or (progress is None and not sys.stderr.isatty()):
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total)
        yield lambda: bar.advance(task)
