"""The cache is bounded, and equal requests at the same time are made once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from bough.grammar.cache import SingleFlightCache


def _maker(made: list[str], name: str, size: int = 10) -> Callable[[], Awaitable[bytes]]:
    async def make() -> bytes:
        made.append(name)
        await asyncio.sleep(0)
        return name.encode() * size

    return make


async def test_callers_at_the_same_time_share_one_making() -> None:
    cache, made = SingleFlightCache(1000), list[str]()
    values = await asyncio.gather(*(cache.get_or_make(b"k", _maker(made, "a")) for _ in range(20)))
    assert (made, set(values)) == (["a"], {b"a" * 10})
    assert await cache.get_or_make(b"k", _maker(made, "never")) == b"a" * 10
    assert made == ["a"]


async def test_the_least_recently_used_goes_first() -> None:
    cache, made = SingleFlightCache(25), list[str]()
    for name in "ab":
        await cache.get_or_make(name.encode(), _maker(made, name))
    cache.get(b"a")
    await cache.get_or_make(b"c", _maker(made, "c"))
    assert [cache.get(key) is not None for key in (b"a", b"b", b"c")] == [True, False, True]
    assert cache.size_bytes == 20


async def test_a_value_beyond_the_bound_is_handed_out_and_not_kept() -> None:
    cache, made = SingleFlightCache(15), list[str]()
    await cache.get_or_make(b"a", _maker(made, "a"))
    assert len(await cache.get_or_make(b"b", _maker(made, "b", size=16))) == 16
    assert (cache.get(b"a") is not None, cache.get(b"b")) == (True, None)


async def test_a_failure_reaches_all_and_is_not_kept() -> None:
    cache, made = SingleFlightCache(100), list[str]()

    async def fail() -> bytes:
        await asyncio.sleep(0)
        raise ValueError("wrong")

    results = await asyncio.gather(*(cache.get_or_make(b"k", fail) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    assert await cache.get_or_make(b"k", _maker(made, "a")) == b"a" * 10


async def test_a_caller_that_gives_up_leaves_the_others_theirs() -> None:
    cache, gate = SingleFlightCache(100), asyncio.Event()

    async def make() -> bytes:
        await gate.wait()
        return b"x"

    first = asyncio.create_task(cache.get_or_make(b"k", make))
    second = asyncio.create_task(cache.get_or_make(b"k", make))
    await asyncio.sleep(0)
    first.cancel()
    gate.set()
    assert await second == b"x"
    with pytest.raises(asyncio.CancelledError):
        await first
