"""Several compilers: each source has one, in order, and a hostile one holds up only its own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from bough.common.errors import InvalidRequestError, OverloadedError
from bough.common.sampling import GrammarKind
from bough.demo import model_dir
from bough.grammar import pool as pool_module
from bough.grammar.pool import CompilerPool
from bough.grammar.process import CompilerProcess

# A count that xgrammar takes minutes to unroll.
HOSTILE = "root ::= " + " ".join(f'("{i}" [a-z]{{0,120}})?' for i in range(4000))


def _make(limit_s: float = 1.5) -> CompilerProcess:
    return CompilerProcess(model_dir(), vocab_size=4096, stop_token_ids=[4089, 4087], limit_s=limit_s, threads=1)


@pytest.fixture
async def pool() -> AsyncIterator[CompilerPool]:
    made = CompilerPool(_make, 2)
    await made.start()
    yield made
    await made.stop()


async def test_a_hostile_source_blocks_one_compiler_and_the_others_go_on(pool: CompilerPool) -> None:
    hostile = asyncio.create_task(pool.compile(GrammarKind.EBNF, HOSTILE))
    await asyncio.sleep(0)
    for i in range(20):
        await pool.compile(GrammarKind.CHOICE, json.dumps([f"a{i}"]))
    assert not hostile.done()
    with pytest.raises(InvalidRequestError, match=r"takes longer than 1.5 s to compile"):
        await hostile
    # Both are there again.
    await asyncio.gather(*(pool.compile(GrammarKind.CHOICE, json.dumps([f"b{i}"])) for i in range(8)))


async def test_sources_are_compiled_in_the_order_in_which_they_came() -> None:
    pool, done = CompilerPool(_make, 1), list[int]()
    await pool.start()

    async def compile(index: int) -> None:
        await pool.compile(GrammarKind.CHOICE, json.dumps([f"c{index}"]))
        done.append(index)

    await asyncio.gather(*(compile(index) for index in range(8)))
    assert done == list(range(8))
    await pool.stop()


async def test_a_queue_beyond_its_bound_is_overload(pool: CompilerPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "MAX_WAITING", 2)
    results = await asyncio.gather(
        *(pool.compile(GrammarKind.CHOICE, json.dumps([f"d{i}"])) for i in range(6)), return_exceptions=True
    )
    assert sum(isinstance(result, OverloadedError) for result in results) == 2
    assert sum(isinstance(result, bytes) for result in results) == 4
    assert pool.num_waiting == 0
