"""Nothing that computes runs on the event loop, and nothing computes without end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from bough.common.errors import InvalidRequestError
from bough.tokenizer.encoding import TextEncoder
from bough.tokenizer.workers import LARGE_CHARS, EncodeQueue, TimeLimitedPool
from tests.helpers.tokenizer_files import byte_level


class _Gated(TextEncoder):
    """An encoder that waits to be let through, and notes its batches."""

    def __init__(self) -> None:
        super().__init__(byte_level())
        self.gate = threading.Event()
        self.entered = threading.Event()
        self.batches: list[int] = []

    def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        self.batches.append(len(texts))
        self.entered.set()
        self.gate.wait(30)
        return super().encode(texts, add_special_tokens=add_special_tokens)


async def test_calls_that_arrive_while_the_thread_is_busy_are_one_batch() -> None:
    encoder = _Gated()
    queue = EncodeQueue(encoder)
    first = asyncio.create_task(queue.encode(["a"], add_special_tokens=True))
    await asyncio.to_thread(encoder.entered.wait)
    others = [asyncio.create_task(queue.encode([f"b{i}", "c"], add_special_tokens=True)) for i in range(5)]
    await asyncio.sleep(0)
    encoder.gate.set()
    answers = await asyncio.gather(first, *others)
    assert encoder.batches == [1, 10]
    alone = TextEncoder(byte_level())
    assert answers[3] == alone.encode(["b2", "c"], add_special_tokens=True)
    queue.close()


async def test_a_large_call_does_not_hold_small_ones_up() -> None:
    encoder = _Gated()
    queue = EncodeQueue(encoder)
    large = asyncio.create_task(queue.encode(["x" * (LARGE_CHARS + 1)], add_special_tokens=True))
    await asyncio.to_thread(encoder.entered.wait)
    encoder.entered.clear()
    small = asyncio.create_task(queue.encode(["y"], add_special_tokens=True))
    assert await asyncio.to_thread(encoder.entered.wait, 30)
    encoder.gate.set()
    await asyncio.gather(large, small)
    queue.close()


async def test_a_failure_reaches_every_call_of_the_batch_and_the_queue_goes_on() -> None:
    queue = EncodeQueue(TextEncoder(byte_level()))
    with pytest.raises(TypeError):
        await queue.encode([chr(0xD800)], add_special_tokens=True)
    assert len(await queue.encode(["a"], add_special_tokens=True)) == 1
    queue.close()


async def test_an_endless_function_is_interrupted_and_its_thread_lives_on() -> None:
    pool = TimeLimitedPool(threads=1, limit_s=0.05)

    def spin() -> None:
        while True:
            pass

    for _ in range(3):
        with pytest.raises(InvalidRequestError, match=r"the template took longer than 0\.05 s"):
            await pool.run(spin, what="the template")
        assert await pool.run(threading.get_ident, what="the template") != threading.get_ident()
    pool.close()


async def test_waiting_for_a_thread_does_not_count_against_the_limit() -> None:
    pool = TimeLimitedPool(threads=1, limit_s=0.05)
    gate = threading.Event()

    def spin() -> None:
        while True:
            pass

    endless = asyncio.create_task(pool.run(spin, what="x"))
    waiting = asyncio.create_task(pool.run(lambda: gate.is_set(), what="y"))
    with pytest.raises(InvalidRequestError):
        await endless
    assert await waiting is False
    pool.close()
