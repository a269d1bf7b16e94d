"""The way to the scheduler for one program: orders given at the same time travel together."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from bough.common.errors import NotFoundError
from bough.gateway.programs.batches import Batcher
from bough.gateway.programs.errors import order_error
from bough.gateway.programs.orders import Order, OrderAnswer, ProgramChange, StateEnd

MAX_ORDERS = 1024


class StateKeeper(Protocol):
    """Who keeps programs: the scheduler."""

    async def change(self, change: ProgramChange, *, traceparent: str = "") -> Sequence[OrderAnswer]:
        """Carry out orders; one answer each. NotFoundError where the program is not known."""


class Ledger:
    """Orders for one program. Each renews its lease.

    Orders are carried out as they were given, and one message is under way at a time: what is ordered meanwhile goes
    out in the next one, so that a thousand branches cost few messages.

    Args:
        keeper: The scheduler.
        program: The program's id.
        traceparent: Trace context of the client.
    """

    def __init__(self, keeper: StateKeeper, program: bytes, *, traceparent: str = "") -> None:
        self.program = program
        self._keeper = keeper
        self._traceparent = traceparent
        self._batcher: Batcher[Order, StateEnd] = Batcher(self._send, most=MAX_ORDERS, at_once=1)
        self.last_s = asyncio.get_running_loop().time()
        """When the lease was renewed last, by the loop's clock."""

    async def order(self, order: Order) -> StateEnd:
        """Have an order carried out. BoughError says why it was not."""
        return await self._batcher.put(order)

    async def order_all(self, *orders: Order) -> list[StateEnd]:
        """Have orders carried out one right after the other; the first error counts."""
        return list(await asyncio.gather(*[self._batcher.put(order) for order in orders]))

    async def renew(self) -> None:
        """Renew the lease. NotFoundError where it has ended."""
        await self._change(ProgramChange(program=self.program))

    async def close_program(self) -> None:
        """End the program, after all orders so far."""
        await self._batcher.settled()
        await self._change(ProgramChange(program=self.program, close=True))

    async def close(self) -> None:
        """Give up the orders that are under way."""
        await self._batcher.close()

    async def _send(self, orders: Sequence[Order]) -> list[StateEnd | Exception]:
        answers = await self._change(ProgramChange(program=self.program, orders=tuple(orders)))
        return [order_error(answer.code, answer.message) if answer.code else answer.end for answer in answers]

    async def _change(self, change: ProgramChange) -> Sequence[OrderAnswer]:
        try:
            answers = await self._keeper.change(change, traceparent=self._traceparent)
        except NotFoundError as error:
            error.field = error.field or "program"
            raise
        self.last_s = asyncio.get_running_loop().time()
        return answers
