"""Several compilers: ordinary sources get through while others that take long fill all there is for those.

Every source is tried for a moment. One that takes longer goes on, giving way to everything else, unless all other
compilers are at such sources: one is always left for new ones. Then it is given up, and waits in a line of its own to
be compiled from the beginning.
"""

from __future__ import annotations

import asyncio
from collections import deque

from bough.common.errors import OverloadedError
from bough.common.sampling import GrammarKind
from bough.grammar.nursery import Nursery
from bough.grammar.process import COMPILE_LIMIT_S, CompilerProcess, TakesLongError

MAX_WAITING = 1024
"""Sources that wait for their first try before the one that came first is told to come again."""
NEW_WAIT_S = 20.0
"""For how long they wait for it."""
MAX_LONG_WAITING = 32
"""Sources that take long and wait, before further ones are told to come again."""
LONG_WAIT_S = 8.0
"""For how long they wait: with the time to compile, less than a gateway waits."""
_RETRY_AFTER_S = 10.0

Turn = asyncio.Future[CompilerProcess]


class CompilerPool:
    """Compilers that take turns.

    Args:
        nursery: Forks them.
        size: How many; at least two.
        limit_s: Processor time that a source may take.
    """

    def __init__(self, nursery: Nursery, size: int, *, limit_s: float = COMPILE_LIMIT_S) -> None:
        self.nursery = nursery
        self._processes = [CompilerProcess(nursery, limit_s=limit_s) for _ in range(size)]
        self._free: list[CompilerProcess] = []
        self._new: deque[Turn] = deque()
        self._long: deque[Turn] = deque()
        self._num_long = 0
        """Compilers that are at a source that takes long."""

    @property
    def format(self) -> str:
        """Of the compiled form; known once started."""
        return self.nursery.format

    @property
    def num_waiting(self) -> int:
        """Sources that wait for a compiler."""
        return len(self._new) + len(self._long)

    async def start(self) -> None:
        """Start all. ModelError when they cannot read the model."""
        await self.nursery.start()
        for process in self._processes:
            process.start()
        self._free = list(self._processes)

    async def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form of a source.

        Raises:
            InvalidRequestError: The source is wrong, or takes more time or memory than is allowed.
            OverloadedError: Too many are waiting.
            UnavailableError: The process is down and does not start.
        """
        try:
            return await self._try(kind, text)
        except TakesLongError:
            return await self._take_long(kind, text)

    async def _try(self, kind: GrammarKind, text: str) -> bytes:
        if len(self._new) >= MAX_WAITING:
            _send_away(self._new.popleft())
        try:
            async with asyncio.timeout(NEW_WAIT_S):
                process = await self._wait(self._new)
        except TimeoutError:
            raise _too_many(len(self._new) + 1) from None
        is_long = False

        def may_take_long() -> bool:
            nonlocal is_long
            is_long = self._has_room_for_long
            self._num_long += is_long
            return is_long

        try:
            return await process.compile(kind, text, may_take_long)
        finally:
            self._num_long -= is_long
            self._give_back(process)

    async def _take_long(self, kind: GrammarKind, text: str) -> bytes:
        if len(self._long) >= MAX_LONG_WAITING:
            raise self._overload()
        try:
            async with asyncio.timeout(LONG_WAIT_S):
                process = await self._wait(self._long)
        except TimeoutError:
            raise self._overload() from None
        # Whoever gave the turn has counted it.
        try:
            return await process.compile(kind, text)
        finally:
            self._num_long -= 1
            self._give_back(process)

    @property
    def _has_room_for_long(self) -> bool:
        return self._num_long < len(self._processes) - 1

    def _overload(self) -> OverloadedError:
        return OverloadedError(
            f"takes long to compile, as {len(self._long)} others do that wait; try again later, or simplify it",
            retry_after_s=_RETRY_AFTER_S,
        )

    async def _wait(self, line: deque[Turn]) -> CompilerProcess:
        turn: Turn = asyncio.get_running_loop().create_future()
        line.append(turn)
        self._hand_out()
        try:
            return await turn
        except asyncio.CancelledError:
            if turn in line:
                line.remove(turn)
            elif turn.done() and not turn.cancelled() and turn.exception() is None:
                self._num_long -= line is self._long
                self._give_back(turn.result())
            raise

    def _give_back(self, process: CompilerProcess) -> None:
        # One that is started again is not free before it has come up: the others take its turns meanwhile.
        if process.restarting is None:
            self._free.append(process)
            self._hand_out()
        else:
            process.restarting.add_done_callback(lambda _: self._give_back(process))

    def _hand_out(self) -> None:
        """Give turns to who waits, as far as there are compilers."""
        while self._free:
            # Of new ones the last first: the first ones may be hundreds of a flood, and have waited in vain already.
            if self._new:
                line, turn = self._new, self._new.pop()
            elif self._long and self._has_room_for_long:
                line, turn = self._long, self._long.popleft()
            else:
                return
            if not turn.done():
                self._num_long += line is self._long
                turn.set_result(self._free.pop())

    async def stop(self) -> None:
        """End all."""
        await asyncio.gather(*(process.stop() for process in self._processes))
        await self.nursery.stop()


def _send_away(turn: Turn) -> None:
    if not turn.done():
        turn.set_exception(_too_many(MAX_WAITING))


def _too_many(num_waiting: int) -> OverloadedError:
    return OverloadedError(f"{num_waiting} grammars wait to be compiled; try again later")
