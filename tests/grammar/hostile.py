"""Sources that take compilers long, and waiting for what compilers do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], bool], *, timeout_s: float = 60.0) -> None:
    """Look until a condition holds; TimeoutError where it does not in time."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # another process's doing sets no event
            await asyncio.sleep(0.01)


def hostile(number: int) -> str:
    """EBNF with counts that xgrammar takes minutes to unroll."""
    return "root ::= " + " ".join(f'("{number} {i}" [a-z]{{0,120}})?' for i in range(4000))
