"""Compiled grammars: fetched over the wire once, read, kept within bounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
import xgrammar

from bough.common.errors import InvalidRequestError, UnavailableError
from bough.common.grammar_form import grammar_format, mask_compiler, write_grammar
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import RpcServer
from bough.common.sampling import Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor import grammar_client, grammars
from bough.executor.grammar_client import fetch_grammar
from bough.executor.grammars import GrammarMatcher, GrammarStore
from bough.rpc.v1 import grammar_pb2 as pb
from bough.rpc.v1 import grammar_pb2_grpc
from tests.helpers.grammar_service import FetchOnlyService
from tests.helpers.tokenizer_files import byte_level, token_id

EOS = 2


def grammar(text: str) -> Grammar:
    return Grammar(key=text.encode().ljust(32), kind=GrammarKind.REGEX, text=text)


class Source:
    """Compiles what is asked for, as a grammar service would."""

    def __init__(self, model_dir: Path) -> None:
        info = xgrammar_tokenizer_info(read_vocabulary(model_dir), vocab_size=512, stop_token_ids=[EOS])
        self._compiler = mask_compiler(info)
        self.fetched: list[str] = []
        self.written_by = grammar_format()
        self.garbage: bytes | None = None
        self.gate = asyncio.Event()
        self.gate.set()

    async def __call__(self, wanted: Grammar) -> tuple[str, bytes]:
        self.fetched.append(wanted.text)
        await self.gate.wait()
        if self.garbage is not None:
            return self.written_by, self.garbage
        return self.written_by, self.compile(wanted.text)

    def size_bytes(self, text: str) -> int:
        compiled = self._compiler.compile_regex(text)
        allowed(GrammarMatcher(compiled))
        return int(compiled.memory_size_bytes)

    def compile(self, text: str) -> bytes:
        return write_grammar(xgrammar.Grammar.from_regex(text))


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    byte_level().save(str(tmp_path / "tokenizer.json"))
    return tmp_path


@pytest.fixture
async def source(model_dir: Path) -> Source:
    return Source(model_dir)


def make_store(model_dir: Path, source: Source, max_bytes: int = 1 << 24) -> GrammarStore:
    return GrammarStore(model_dir, vocab_size=512, stop_token_ids=[EOS], fetch=source, max_bytes=max_bytes)


def allowed(matcher: Any) -> list[int]:
    bits = torch.zeros((1, 16), dtype=torch.int32)
    matcher.fill(bits, 0)
    return [token for token in range(512) if int(bits[0, token // 32]) >> (token % 32) & 1]


async def test_a_matcher_allows_what_the_grammar_says_and_is_done_after_a_stop_token(
    model_dir: Path, source: Source
) -> None:
    a, b = token_id(byte_level(), "a"), token_id(byte_level(), "b")
    matcher = await make_store(model_dir, source).matcher(grammar("ab?"))
    assert allowed(matcher) == [a]
    assert not matcher.accept(b) and matcher.accept(a)
    assert allowed(matcher) == sorted([EOS, b]) and not matcher.is_done
    assert matcher.accept(EOS) and matcher.is_done


async def test_each_sequence_has_a_matcher_of_its_own_and_the_form_is_fetched_once(
    model_dir: Path, source: Source
) -> None:
    store = make_store(model_dir, source)
    a = token_id(byte_level(), "a")
    source.gate.clear()
    waiting = [asyncio.create_task(store.matcher(grammar("a"))) for _ in range(3)]
    await asyncio.sleep(0)
    source.gate.set()
    first, second, _ = await asyncio.gather(*waiting)
    assert first.accept(a)
    assert allowed(second) == [a] and allowed(await store.matcher(grammar("a"))) == [a]
    assert source.fetched == ["a"]


async def test_a_cancelled_waiter_does_not_take_the_grammar_from_the_others(model_dir: Path, source: Source) -> None:
    store = make_store(model_dir, source)
    source.gate.clear()
    gone, stays = (asyncio.create_task(store.matcher(grammar("a"))) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    source.gate.set()
    assert allowed(await stays)
    assert gone.cancelled() and source.fetched == ["a"]


async def test_the_least_recently_used_forms_are_dropped(model_dir: Path, source: Source) -> None:
    size = max(source.size_bytes(text) for text in "abc")
    store = make_store(model_dir, source, max_bytes=2 * size)
    for text in "abacab":
        assert allowed(await store.matcher(grammar(text)))  # a grammar is small until it is asked
    assert source.fetched == ["a", "b", "c", "b"]


async def test_a_form_larger_than_the_bound_serves_and_is_not_kept(model_dir: Path, source: Source) -> None:
    store = make_store(model_dir, source, max_bytes=1)
    for _ in range(2):
        assert allowed(await store.matcher(grammar("a")))
    assert source.fetched == ["a", "a"]


async def test_a_form_that_cannot_be_read_is_an_error_and_the_next_try_fetches_again(
    model_dir: Path, source: Source
) -> None:
    store = make_store(model_dir, source)
    source.written_by = "xgrammar-0.0/v0"
    with pytest.raises(InvalidRequestError, match=r"compiled by xgrammar-0\.0/v0, this executor reads"):
        await store.matcher(grammar("a"))
    source.written_by, source.garbage = grammar_format(), b"{}"
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        await store.matcher(grammar("a"))
    source.garbage = None
    assert allowed(await store.matcher(grammar("a")))


class FakeGrammarService(FetchOnlyService):
    """Serves one form in small chunks, after the given failures."""

    def __init__(self, *failures: grpc.StatusCode, data: bytes = bytes(range(200)), total: int = 200) -> None:
        self.failures = list(failures)
        self.data, self.total = data, total
        self.asked: list[str] = []

    async def Fetch(
        self, request: pb.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[pb.FetchResponse]:
        self.asked.append(request.grammar.text)
        for start in range(0, len(self.data), 64):
            if start and self.failures:
                await context.abort(self.failures.pop(0), "planted")
            chunk = self.data[start : start + 64]
            yield (
                pb.FetchResponse(chunk=chunk)
                if start
                else pb.FetchResponse(format="f", total_bytes=self.total, chunk=chunk)
            )


async def fetched(service: FakeGrammarService, tmp_path: Path) -> tuple[str, bytes]:
    address = f"unix:{tmp_path}/grammar.sock"
    server = RpcServer(address)
    grammar_pb2_grpc.add_GrammarServiceServicer_to_server(service, server.server)
    await server.start()
    try:
        async with open_channel(address) as channel:
            return await fetch_grammar(channel, grammar("a"))
    finally:
        await server.stop(0)


@pytest.fixture(autouse=True)
def short_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammar_client, "_BACKOFF_S", 0.001)


async def test_a_form_is_put_together_from_its_chunks(tmp_path: Path) -> None:
    service = FakeGrammarService()
    assert await fetched(service, tmp_path) == ("f", bytes(range(200)))
    assert service.asked == ["a"]


async def test_a_grammar_service_that_goes_away_is_asked_again_from_the_start(tmp_path: Path) -> None:
    service = FakeGrammarService(grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.UNAVAILABLE)
    assert await fetched(service, tmp_path) == ("f", bytes(range(200)))
    assert len(service.asked) == 3


async def test_a_grammar_service_that_stays_away_is_named(tmp_path: Path) -> None:
    service = FakeGrammarService(*[grpc.StatusCode.UNAVAILABLE] * grammar_client.ATTEMPTS)
    with pytest.raises(UnavailableError, match="the grammar service is not available"):
        await fetched(service, tmp_path)
    assert len(service.asked) == grammar_client.ATTEMPTS


async def test_a_refusal_is_not_tried_again(tmp_path: Path) -> None:
    service = FakeGrammarService(grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(InvalidRequestError, match="planted"):
        await fetched(service, tmp_path)
    assert len(service.asked) == 1


async def test_a_form_that_is_not_whole_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="200 of 300 bytes"):
        await fetched(FakeGrammarService(total=300), tmp_path)


def test_a_sequence_whose_grammar_takes_ever_longer_is_ended(model_dir: Path) -> None:
    info = xgrammar_tokenizer_info(read_vocabulary(model_dir), vocab_size=512, stop_token_ids=[EOS])
    ambiguous = xgrammar.GrammarCompiler(info).compile_grammar("root ::= s\ns ::= [a-z] | s s | s s s | s s s s")
    matcher = GrammarMatcher(ambiguous)
    letter = token_id(byte_level(), "a")
    assert any(matcher.accept(letter) and matcher.batched is None for _ in range(300))
    with pytest.raises(ValueError, match="the grammar is too ambiguous"):
        allowed(matcher)


def test_a_sequence_whose_masks_take_ever_longer_is_ended_though_its_tokens_do_not(model_dir: Path) -> None:
    info = xgrammar_tokenizer_info(read_vocabulary(model_dir), vocab_size=512, stop_token_ids=[EOS])
    ambiguous = xgrammar.GrammarCompiler(info).compile_grammar('root ::= (([a-z ]*)*)* "0"')
    matcher = GrammarMatcher(ambiguous)
    letter = token_id(byte_level(), "a")
    assert all(matcher.accept(letter) for _ in range(60)) and matcher.batched is not None
    with pytest.raises(ValueError, match="the grammar is too"):
        for _ in range(60):
            allowed(matcher)
            assert matcher.accept(letter)
    assert matcher.batched is None


def test_one_mask_that_takes_too_long_is_refused_by_its_time(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grammars, "MOST_EXCESS_S", 1e-9)
    info = xgrammar_tokenizer_info(read_vocabulary(model_dir), vocab_size=512, stop_token_ids=[EOS])
    matcher = GrammarMatcher(xgrammar.GrammarCompiler(info).compile_grammar("root ::= [a-z]*"))
    with pytest.raises(ValueError, match=r"finding what may follow the text so far takes .* s; at most 1e-09 s"):
        allowed(matcher)


def test_a_suspect_is_timed_for_a_while_and_then_trusted_again(model_dir: Path) -> None:
    info = xgrammar_tokenizer_info(read_vocabulary(model_dir), vocab_size=512, stop_token_ids=[EOS])
    matcher = GrammarMatcher(xgrammar.GrammarCompiler(info).compile_grammar("root ::= [a-z]*"))
    assert matcher.batched is not None
    matcher.suspect()
    num_timed = 0
    while matcher.batched is None:
        allowed(matcher)
        num_timed += 1
    assert 1 < num_timed < 100
