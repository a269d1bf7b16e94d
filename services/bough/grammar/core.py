"""What the grammar service does, without the wire: name, compile, keep and hand out grammars."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from bough.common.errors import InvalidRequestError
from bough.common.sampling import Grammar, GrammarKind
from bough.grammar.cache import SingleFlightCache
from bough.grammar.disk import DiskCache
from bough.grammar.key import grammar_key

MAX_SOURCE_BYTES = 1 << 20
_FIELDS = {
    GrammarKind.JSON_SCHEMA: "response_format.json_schema.schema",
    GrammarKind.REGEX: "regex",
    GrammarKind.JSON_OBJECT: "response_format",
    GrammarKind.EBNF: "ebnf",
    GrammarKind.CHOICE: "choice",
    GrammarKind.STRUCTURAL_TAG: "structural_tag",
}

Compile = Callable[[GrammarKind, str], Awaitable[bytes]]


class Tier(StrEnum):
    """Where a compiled grammar came from."""

    COMPILER = "compiler"
    MEMORY = "memory"
    DISK = "disk"
    FLIGHT = "flight"
    """It was being made for another caller."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled grammar."""

    key: bytes
    data: bytes
    compile_us: int
    """Time until it was there; 0 where it was in a cache."""
    tier: Tier


class Grammars:
    """Compiled grammars of one vocabulary.

    Args:
        compile: Turns a source into its compiled form; InvalidRequestError says what is wrong with it.
        vocab_hash: Names the vocabulary.
        format_version: Names the compiled form.
        max_bytes: Bound of the compiled forms kept in memory.
        disk: Where they are kept across restarts; None keeps none.
    """

    def __init__(
        self,
        compile: Compile,
        *,
        vocab_hash: bytes,
        format_version: str,
        max_bytes: int,
        disk: DiskCache | None = None,
    ) -> None:
        self._compile = compile
        self._disk = disk
        self._vocab_hash = vocab_hash
        self.format_version = format_version
        self._cache = SingleFlightCache(max_bytes)

    async def compile(self, kind: GrammarKind, text: str) -> Compiled:
        """Compile a source, or find it compiled.

        Raises:
            InvalidRequestError: The source is wrong; the message begins with the field's name.
        """
        _check(kind, text)
        key = grammar_key(kind, text, vocab_hash=self._vocab_hash, format_version=self.format_version)
        data = self._cache.get(key)
        if data is not None:
            return Compiled(key, data, 0, Tier.MEMORY)
        start_s = time.perf_counter()
        tier = Tier.FLIGHT

        async def make() -> bytes:
            nonlocal tier
            stored = None if self._disk is None else await asyncio.to_thread(self._disk.read, key)
            if stored is not None:
                tier = Tier.DISK
                return stored
            tier = Tier.COMPILER
            return await self._make(kind, text, key)

        data = await self._cache.get_or_make(key, make)
        took_us = 0 if tier is Tier.DISK else max(1, round((time.perf_counter() - start_s) * 1e6))
        return Compiled(key, data, took_us, tier)

    async def _make(self, kind: GrammarKind, text: str, key: bytes) -> bytes:
        try:
            made = await self._compile(kind, text)
        except InvalidRequestError as error:
            raise _invalid(kind, str(error)) from None
        if self._disk is not None:
            await asyncio.to_thread(self._disk.write, key, made)
        return made

    async def fetch(self, grammar: Grammar) -> Compiled:
        """The compiled form under a key, compiled again from its source where it is not kept.

        Raises:
            InvalidRequestError: The key is not that of the source.
        """
        expected = grammar_key(
            grammar.kind, grammar.text, vocab_hash=self._vocab_hash, format_version=self.format_version
        )
        if grammar.key != expected:
            raise InvalidRequestError(
                f"grammar.key: {grammar.key.hex()[:16] or 'empty'} is not the key of this source, which is "
                f"{expected.hex()[:16]}: it was made for another vocabulary or version",
                field="grammar.key",
            )
        return await self.compile(grammar.kind, grammar.text)

    def close(self) -> None:
        """Give up what is being compiled."""
        self._cache.close()


def _check(kind: GrammarKind, text: str) -> None:
    """What can be said without looking into the source, which is the compiler process's to do."""
    size = len(text.encode())
    if size > MAX_SOURCE_BYTES:
        raise _invalid(kind, f"has {size} bytes; at most {MAX_SOURCE_BYTES} are accepted")
    if kind is GrammarKind.JSON_OBJECT:
        if text:
            raise _invalid(kind, "json_object takes no source")
    elif not text:
        raise _invalid(kind, "must not be empty")


def _invalid(kind: GrammarKind, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{_FIELDS[kind]}: {text}", field=_FIELDS[kind])
