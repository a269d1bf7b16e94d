"""Several compiler processes: a source takes the next free one, in the order in which sources came."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from bough.common.errors import OverloadedError
from bough.common.sampling import GrammarKind
from bough.grammar.process import CompilerProcess

MAX_WAITING = 1024
"""Sources that wait for a compiler before new ones are told to come again."""


class CompilerPool:
    """Compiler processes that take turns.

    Args:
        make: Makes one of them; starts nothing.
        size: How many.
    """

    def __init__(self, make: Callable[[], CompilerProcess], size: int) -> None:
        self._processes = [make() for _ in range(size)]
        self._free: asyncio.Queue[CompilerProcess] = asyncio.Queue()
        self.num_waiting = 0

    @property
    def format(self) -> str:
        """Of the compiled form; known once started."""
        return self._processes[0].format

    async def start(self) -> None:
        """Start all. ModelError when they cannot read the model."""
        await asyncio.gather(*(process.start() for process in self._processes))
        for process in self._processes:
            self._free.put_nowait(process)

    async def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form of a source.

        Raises:
            InvalidRequestError: The source is wrong, or takes more time or memory than is allowed.
            OverloadedError: Too many are waiting.
            UnavailableError: The process is down and does not start.
        """
        if self.num_waiting >= MAX_WAITING:
            raise OverloadedError(f"{self.num_waiting} grammars wait to be compiled; try again later")
        self.num_waiting += 1
        try:
            process = await self._free.get()
        finally:
            self.num_waiting -= 1
        try:
            return await process.compile(kind, text)
        finally:
            # One that is started again is not free before it has come up: the others take its turns meanwhile.
            if process.restarting is None:
                self._free.put_nowait(process)
            else:
                process.restarting.add_done_callback(lambda _: self._free.put_nowait(process))

    async def stop(self) -> None:
        """End all."""
        await asyncio.gather(*(process.stop() for process in self._processes))
