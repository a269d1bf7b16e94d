"""A client process with many states of programs at once: `python -m bough.load.lang_states URL COUNT`.

Prints one JSON object with its memory before the first program and at most.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys

from bough.lang import AsyncState, function, gen
from bough.lang.backends.bough import Bough

BRANCHES = 9
"""Of each program; with the one they come from, ten states."""


@function
async def branching(s: AsyncState, number: int, is_held: asyncio.Barrier) -> list[str]:
    """Ten states, none of which ends before all programs have theirs."""
    s += f"Program {number}: once upon a time there was a lighthouse."
    async with s.fork(BRANCHES) as group:
        group += lambda branch: f" Keeper {branch} said" + gen("said", max_tokens=2)
        s += " In the end" + gen("said", max_tokens=2)
        texts = [str(await state["said"]) for state in (s, *group)]
        await is_held.wait()
    return texts


async def hold(url: str, count: int) -> int:
    """Hold so many states; returns how many there were."""
    programs = max(1, count // (BRANCHES + 1))
    is_held, backend = asyncio.Barrier(programs), Bough(url)
    results = await branching.arun_batch(
        [{"number": number, "is_held": is_held} for number in range(programs)],
        backend=backend,
        concurrency=programs,
        progress=False,
        raise_errors=True,
        ignore_eos=True,
    )
    return sum(len(result.value) for result in results)


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    before_mb = _peak_mb()
    num_states = asyncio.run(hold(sys.argv[1], int(sys.argv[2])))
    print(json.dumps({"states": num_states, "before_mb": before_mb, "peak_mb": _peak_mb()}))
