"""Several compilers: a flood of sources that take long leaves ordinary ones a way through."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator

import psutil  # type: ignore[import-untyped]
import pytest

from bough.common.errors import InvalidRequestError, OverloadedError
from bough.common.sampling import GrammarKind
from bough.demo import model_dir
from bough.grammar import pool as pool_module
from bough.grammar.nursery import Nursery
from bough.grammar.pool import CompilerPool
from bough.grammar.worker import NICENESS
from tests.grammar.hostile import hostile, until


def a_while(number: int) -> str:
    """Takes longer than a try, and then ends."""
    return "root ::= " + " ".join(f'("{number} {i}" [a-z]{{0,120}})?' for i in range(100))


def _make(size: int = 2, limit_s: float = 1.5) -> CompilerPool:
    nursery = Nursery(model_dir(), vocab_size=4096, stop_token_ids=[4089, 4087])
    return CompilerPool(nursery, size, limit_s=limit_s)


@pytest.fixture
async def pool() -> AsyncIterator[CompilerPool]:
    made = _make()
    await made.start()
    yield made
    await made.stop()


async def _ordinary_s(pool: CompilerPool, name: str) -> float:
    began_s = time.perf_counter()
    await pool.compile(GrammarKind.CHOICE, json.dumps([name]))
    return time.perf_counter() - began_s


async def test_ordinary_sources_get_through_a_flood_of_hostile_ones(pool: CompilerPool) -> None:
    await _ordinary_s(pool, "all are up")
    flood = [asyncio.create_task(pool.compile(GrammarKind.EBNF, hostile(i))) for i in range(100)]
    await asyncio.sleep(0)
    took_s = [await _ordinary_s(pool, f"a{i}") for i in range(10)]
    # One after another they would wait for 100 times the limit of 1.5 s.
    assert sorted(took_s)[5] < 1.5
    assert not any(task.done() and task.exception() is None for task in flood)
    for task in flood:
        task.cancel()
    await asyncio.gather(*flood, return_exceptions=True)
    assert pool.num_waiting == 0
    await asyncio.gather(*(_ordinary_s(pool, f"b{i}") for i in range(8)))


async def test_a_hostile_source_ends_at_its_limit_and_is_named(pool: CompilerPool) -> None:
    with pytest.raises(InvalidRequestError, match=r"takes longer than 1.5 s to compile"):
        await pool.compile(GrammarKind.EBNF, hostile(0))


async def test_sources_that_take_long_are_all_compiled_one_after_another() -> None:
    pool = _make(limit_s=30)
    await pool.start()
    made = await asyncio.gather(*(pool.compile(GrammarKind.EBNF, a_while(i)) for i in range(4)))
    assert len({*made}) == 4
    await pool.stop()


async def test_a_source_that_takes_long_runs_only_where_nothing_else_does() -> None:
    pool = _make(limit_s=30)
    await pool.start()
    await _ordinary_s(pool, "all are up")
    task = asyncio.create_task(pool.compile(GrammarKind.EBNF, hostile(0)))
    warm = psutil.Process(pool.nursery.pid)

    def idle_ones() -> list[int]:
        return [child.pid for child in warm.children() if _is_idle_class(child.pid)]

    await until(lambda: len(idle_ones()) == 1)
    assert all(child.nice() >= os.nice(0) + NICENESS for child in warm.children())
    gone = idle_ones()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    # What gave way to all others is not what the next source is tried by.
    await until(lambda: not idle_ones() and len(warm.children()) == 2)
    assert not {*gone} & {child.pid for child in warm.children()}
    await pool.stop()


async def test_more_sources_that_take_long_than_may_wait_are_overload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_LONG_WAITING", 1)
    pool = _make(limit_s=30)
    await pool.start()
    await _ordinary_s(pool, "all are up")
    tasks = [asyncio.create_task(pool.compile(GrammarKind.EBNF, hostile(i))) for i in range(4)]
    await until(lambda: sum(task.done() for task in tasks) == 2)
    for error in (task.exception() for task in tasks if task.done()):
        assert isinstance(error, OverloadedError) and error.retry_after_s > 1
        assert "takes long to compile, as 1 others do" in str(error)
    await _ordinary_s(pool, "meanwhile")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.stop()


async def test_a_source_that_takes_long_waits_for_a_time_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "LONG_WAIT_S", 0.5)
    pool = _make(limit_s=30)
    await pool.start()
    tasks = [asyncio.create_task(pool.compile(GrammarKind.EBNF, hostile(i))) for i in range(2)]
    await until(lambda: any(task.done() for task in tasks))
    assert [type(task.exception()) for task in tasks if task.done()] == [OverloadedError]
    assert pool.num_waiting == 0
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await pool.stop()


async def test_a_new_source_waits_for_a_time_only(pool: CompilerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "NEW_WAIT_S", 0.01)
    results = await asyncio.gather(
        *(pool.compile(GrammarKind.EBNF, hostile(i)) for i in range(3)), return_exceptions=True
    )
    assert isinstance(results[2], OverloadedError)
    assert str(results[2]) == "1 grammars wait to be compiled; try again later"
    assert pool.num_waiting == 0


async def test_a_queue_beyond_its_bound_sends_those_away_that_came_first(
    pool: CompilerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITING", 2)
    results = await asyncio.gather(
        *(pool.compile(GrammarKind.CHOICE, json.dumps([f"d{i}"])) for i in range(6)), return_exceptions=True
    )
    # Two have a compiler at once, two wait, and those that waited before them have gone.
    assert [type(result) for result in results] == [bytes, bytes, OverloadedError, OverloadedError, bytes, bytes]
    assert pool.num_waiting == 0


def _is_idle_class(pid: int) -> bool:
    return os.sched_getscheduler(pid) == os.SCHED_IDLE
