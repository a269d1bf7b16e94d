"""The grammar service on a real socket with its real compiler process."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import cast

import grpc
import grpc.aio
import psutil  # type: ignore[import-untyped]
import pytest
import xgrammar

from bough.common.config import Settings
from bough.common.errors import InvalidRequestError, ModelError
from bough.common.grammar_form import mask_compiler, read_grammar
from bough.common.rpc.channel import open_channel
from bough.common.sampling import GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.grammar.nursery import Nursery
from bough.grammar.process import CompilerProcess, TakesLongError
from bough.grammar.service import create
from bough.rpc.v1 import common_pb2, grammar_pb2_grpc
from bough.rpc.v1 import grammar_pb2 as pb
from tests.grammar.hostile import hostile, until

EOS = [4089, 4087]
WIDE = json.dumps({"type": "object", "properties": {f"p{i}": {"type": "string", "maxLength": 200} for i in range(30)}})
HOPELESS = hostile(0)


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[grammar_pb2_grpc.GrammarServiceAsyncStub]:
    service = create(Settings(model=model_dir(), run_dir=tmp_path, grammar_cache_dir=str(tmp_path / "grammars")))
    await service.start()
    async with open_channel(f"unix:{tmp_path}/grammar.sock") as channel:
        yield grammar_pb2_grpc.GrammarServiceStub(channel)
    await service.drain(1)
    await service.stop()


async def test_what_was_compiled_is_fetched_in_chunks(stub: grammar_pb2_grpc.GrammarServiceAsyncStub) -> None:
    compiled = await stub.Compile(pb.CompileRequest(kind=common_pb2.GRAMMAR_KIND_JSON_SCHEMA, text=WIDE))
    again = await stub.Compile(pb.CompileRequest(kind=common_pb2.GRAMMAR_KIND_JSON_SCHEMA, text=WIDE))
    assert (again.key, again.compile_us) == (compiled.key, 0) and compiled.compile_us > 0
    grammar = common_pb2.Grammar(key=compiled.key, kind=common_pb2.GRAMMAR_KIND_JSON_SCHEMA, text=WIDE)
    chunks = [chunk async for chunk in stub.Fetch(pb.FetchRequest(grammar=grammar))]
    assert len(chunks) > 1 and max(len(chunk.chunk) for chunk in chunks) == 1 << 16
    data = b"".join(chunk.chunk for chunk in chunks)
    assert (chunks[0].total_bytes, chunks[0].format) == (
        len(data),
        (await stub.Describe(pb.GrammarDescribeRequest())).format,
    )
    info = xgrammar_tokenizer_info(read_vocabulary(model_dir()), vocab_size=4096, stop_token_ids=EOS)
    matcher = xgrammar.GrammarMatcher(mask_compiler(info).compile_grammar(read_grammar(data)))
    assert matcher.accept_string('{"p0": "x"') and not matcher.is_completed()


async def test_wrong_sources_and_keys_are_invalid_arguments(stub: grammar_pb2_grpc.GrammarServiceAsyncStub) -> None:
    cases: list[tuple[pb.CompileRequest, str]] = [
        (
            pb.CompileRequest(kind=common_pb2.GRAMMAR_KIND_REGEX, text="(a"),
            "regex: at character 2: a group is not closed",
        ),
        (pb.CompileRequest(text="a"), "kind: 0 is not accepted; accepted are JSON_SCHEMA"),
    ]
    for request, says in cases:
        with pytest.raises(grpc.aio.AioRpcError, match=says) as caught:
            await stub.Compile(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    grammar = common_pb2.Grammar(key=b"\x00" * 32, kind=common_pb2.GRAMMAR_KIND_REGEX, text="a")
    with pytest.raises(grpc.aio.AioRpcError, match=r"grammar\.key") as caught:
        await anext(aiter(stub.Fetch(pb.FetchRequest(grammar=grammar))))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.fixture
async def nursery() -> AsyncIterator[Nursery]:
    made = Nursery(model_dir(), vocab_size=4096, stop_token_ids=EOS)
    await made.start()
    yield made
    await made.stop()


async def test_a_source_beyond_the_limit_is_refused_and_the_next_one_compiles(nursery: Nursery) -> None:
    process = CompilerProcess(nursery, limit_s=0.5)
    with pytest.raises(InvalidRequestError, match=r"takes longer than 0.5 s to compile; simplify it"):
        await process.compile(GrammarKind.EBNF, HOPELESS)
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
    await process.stop()


async def test_a_source_is_given_up_after_a_try_where_it_may_not_take_long(nursery: Nursery) -> None:
    process = CompilerProcess(nursery)
    num_asked = 0

    def refuse() -> bool:
        nonlocal num_asked
        num_asked += 1
        return False

    with pytest.raises(TakesLongError):
        await process.compile(GrammarKind.EBNF, HOPELESS, refuse)
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+", refuse)
    assert num_asked == 1
    await process.stop()


async def test_a_compiler_outlives_what_it_fails_over(nursery: Nursery) -> None:
    process = CompilerProcess(nursery)
    with pytest.raises(InvalidRequestError, match="the compiler failed over it"):
        await process.compile(cast("GrammarKind", 99), "a")
    assert process.restarting is None
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
    await process.stop()


async def test_a_compiler_that_died_between_two_sources_costs_the_next_one_nothing(nursery: Nursery) -> None:
    process = CompilerProcess(nursery)
    await process.compile(GrammarKind.REGEX, "a")
    for _ in range(2):
        assert process.pid is not None
        before = psutil.Process(process.pid)
        before.kill()
        await until(partial(_has_ended, before))
        assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
        assert process.pid != before.pid
    await process.stop()


def _has_ended(process: psutil.Process) -> bool:
    return bool(process.status() == psutil.STATUS_ZOMBIE)


async def test_a_compiler_killed_over_a_source_is_there_again_for_the_next_one(nursery: Nursery) -> None:
    process = CompilerProcess(nursery)
    await process.compile(GrammarKind.REGEX, "a")
    compiling = asyncio.create_task(process.compile(GrammarKind.EBNF, HOPELESS))
    await asyncio.sleep(0)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(InvalidRequestError, match="the compiler gave up on it"):
        await compiling
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
    await process.stop()


async def test_compilers_outlive_the_warm_process_and_leave_no_dead_ones_behind(nursery: Nursery) -> None:
    process = CompilerProcess(nursery, limit_s=0.5)
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
    assert nursery.pid is not None
    os.kill(nursery.pid, signal.SIGKILL)
    compiler = process.pid
    await until(lambda: compiler is not None and not psutil.pid_exists(compiler))
    assert b"{" in await process.compile(GrammarKind.REGEX, "a+")
    for _ in range(3):
        with pytest.raises(InvalidRequestError, match="takes longer"):
            await process.compile(GrammarKind.EBNF, HOPELESS)
    assert len(psutil.Process(nursery.pid).children()) <= 1
    await process.stop()


async def test_the_warm_process_has_one_thread(nursery: Nursery) -> None:
    # The others would be missing in what it forks, with whatever locks they held.
    process = CompilerProcess(nursery)
    await process.compile(GrammarKind.REGEX, "a")
    assert psutil.Process(nursery.pid).num_threads() == 1
    await process.stop()


def test_no_service_forks() -> None:
    # gRPC's threads crash a forked child; see `bough.grammar.process`.
    source = Path(__file__).parents[2] / "services"
    assert [path for path in source.rglob("*.py") if "create_subprocess" in path.read_text()] == []


async def test_a_call_that_is_given_up_does_not_shift_the_answers(nursery: Nursery) -> None:
    process = CompilerProcess(nursery)
    await process.compile(GrammarKind.REGEX, "b")
    given_up = asyncio.create_task(process.compile(GrammarKind.JSON_SCHEMA, WIDE))
    await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert len(await process.compile(GrammarKind.REGEX, "a")) < 1 << 20
    await process.stop()


async def test_a_model_that_cannot_be_read_is_an_error_at_start(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not start"):
        await Nursery(tmp_path, vocab_size=1, stop_token_ids=[]).start()


def test_the_process_carries_no_torch() -> None:
    heavy = "{'torch', 'transformers', 'xgrammar'}"
    code = f"import sys, bough.grammar.service; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
