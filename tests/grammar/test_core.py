"""Names, checks and errors of grammars, with a compiler that only pretends."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.common.errors import InvalidRequestError
from bough.common.sampling import Grammar, GrammarKind
from bough.grammar.core import MAX_SOURCE_BYTES, Grammars, Tier
from bough.grammar.disk import DiskCache
from bough.grammar.key import grammar_key

SCHEMA = '{"type": "object"}'


class Pretender:
    """Counts what it compiles."""

    def __init__(self) -> None:
        self.seen: list[tuple[GrammarKind, str]] = []

    async def compile(self, kind: GrammarKind, text: str) -> bytes:
        self.seen.append((kind, text))
        if "refuse" in text:
            raise InvalidRequestError("is refused")
        return text.encode() + b"!"


def _grammars(compiler: Pretender, vocab: bytes = b"v", version: str = "1", disk: DiskCache | None = None) -> Grammars:
    return Grammars(compiler.compile, vocab_hash=vocab, format_version=version, max_bytes=100, disk=disk)


async def test_a_source_is_compiled_once_and_a_hit_takes_no_time() -> None:
    compiler = Pretender()
    grammars = _grammars(compiler)
    first = await grammars.compile(GrammarKind.REGEX, "a+")
    second = await grammars.compile(GrammarKind.REGEX, "a+")
    assert (first.data, first.key, len(first.key)) == (b"a+!", second.key, 32)
    assert (first.tier, second.tier) == (Tier.COMPILER, Tier.MEMORY)
    assert first.compile_us > 0 == second.compile_us
    assert len(compiler.seen) == 1


async def test_what_is_on_disk_is_not_compiled_again_after_a_restart(tmp_path: Path) -> None:
    before, after = Pretender(), Pretender()
    first = await _grammars(before, disk=DiskCache(tmp_path, 1000)).compile(GrammarKind.REGEX, "a+")
    second = await _grammars(after, disk=DiskCache(tmp_path, 1000)).compile(GrammarKind.REGEX, "a+")
    assert (second.data, second.tier, second.compile_us) == (first.data, Tier.DISK, 0)
    assert after.seen == []
    other = await _grammars(after, b"w", disk=DiskCache(tmp_path, 1000)).compile(GrammarKind.REGEX, "a+")
    assert other.tier is Tier.COMPILER


async def test_who_waits_for_anothers_compilation_is_told_so() -> None:
    grammars = _grammars(Pretender())
    results = await asyncio.gather(*(grammars.compile(GrammarKind.REGEX, "a+") for _ in range(3)))
    assert [result.tier for result in results] == [Tier.COMPILER, Tier.FLIGHT, Tier.FLIGHT]


async def test_fetch_compiles_what_a_restart_has_lost() -> None:
    before, after = Pretender(), Pretender()
    compiled = await _grammars(before).compile(GrammarKind.JSON_SCHEMA, SCHEMA)
    grammar = Grammar(key=compiled.key, kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)
    assert (await _grammars(after).fetch(grammar)).data == compiled.data
    assert len(after.seen) == 1


@pytest.mark.parametrize(("vocab", "version"), [(b"w", "1"), (b"v", "2")])
async def test_a_key_of_another_vocabulary_or_version_is_refused(vocab: bytes, version: str) -> None:
    compiled = await _grammars(Pretender()).compile(GrammarKind.REGEX, "a")
    grammar = Grammar(key=compiled.key, kind=GrammarKind.REGEX, text="a")
    with pytest.raises(InvalidRequestError, match=r"grammar\.key: .* is not the key of this source"):
        await _grammars(Pretender(), vocab, version).fetch(grammar)


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        (GrammarKind.JSON_SCHEMA, '{"refuse": 1}', r"response_format\.json_schema\.schema: is refused"),
        (GrammarKind.REGEX, "refuse", "regex: is refused"),
        (GrammarKind.REGEX, "", "regex: must not be empty"),
        (GrammarKind.EBNF, "refuse", "ebnf: is refused"),
        (GrammarKind.CHOICE, "refuse", "choice: is refused"),
        (GrammarKind.STRUCTURAL_TAG, "refuse", "structural_tag: is refused"),
        (GrammarKind.JSON_SCHEMA, "", r"response_format\.json_schema\.schema: must not be empty"),
        (
            GrammarKind.REGEX,
            "é" * (MAX_SOURCE_BYTES // 2 + 1),
            "regex: has 1048578 bytes; at most 1048576 are accepted",
        ),
        (GrammarKind.JSON_OBJECT, "x", "response_format: json_object takes no source"),
    ],
)
async def test_a_wrong_source_is_named_by_its_field(kind: GrammarKind, text: str, says: str) -> None:
    with pytest.raises(InvalidRequestError, match=says):
        await _grammars(Pretender()).compile(kind, text)


@given(sources=st.lists(st.tuples(st.sampled_from(GrammarKind), st.text(max_size=3)), unique=True, min_size=2))
def test_different_sources_have_different_keys(sources: list[tuple[GrammarKind, str]]) -> None:
    keys = {grammar_key(kind, text, vocab_hash=b"v", format_version="1") for kind, text in sources}
    assert len(keys) == len(sources)
