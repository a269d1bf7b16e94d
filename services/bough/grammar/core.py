"""What the grammar service does, without the wire: name, compile, keep and hand out grammars."""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bough.common.errors import InvalidRequestError
from bough.common.sampling import Grammar, GrammarKind
from bough.grammar.cache import SingleFlightCache
from bough.grammar.key import grammar_key

MAX_SOURCE_CHARS = 1 << 20
_FIELDS = {
    GrammarKind.JSON_SCHEMA: "response_format.json_schema.schema",
    GrammarKind.REGEX: "regex",
    GrammarKind.JSON_OBJECT: "response_format",
}

Compile = Callable[[GrammarKind, str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Compiled:
    """A compiled grammar."""

    key: bytes
    data: bytes
    compile_us: int
    """0 where it was in the cache."""


class Grammars:
    """Compiled grammars of one vocabulary.

    Args:
        compile: Turns a source into its compiled form; InvalidRequestError says what is wrong with it.
        vocab_hash: Names the vocabulary.
        format_version: Names the compiled form.
        max_bytes: Bound of the compiled forms kept.
    """

    def __init__(self, compile: Compile, *, vocab_hash: bytes, format_version: str, max_bytes: int) -> None:
        self._compile = compile
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
            return Compiled(key, data, 0)
        start_s = time.perf_counter()

        async def make() -> bytes:
            try:
                return await self._compile(kind, text)
            except InvalidRequestError as error:
                raise _invalid(kind, str(error)) from None

        data = await self._cache.get_or_make(key, make)
        return Compiled(key, data, max(1, round((time.perf_counter() - start_s) * 1e6)))

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
    """What can be said better, or sooner, than by the compiler."""
    if len(text) > MAX_SOURCE_CHARS:
        raise _invalid(kind, f"{len(text)} characters; at most {MAX_SOURCE_CHARS}")
    if kind is GrammarKind.JSON_OBJECT and text:
        raise _invalid(kind, "json_object takes no source")
    if kind is GrammarKind.REGEX and not text:
        raise _invalid(kind, "must not be empty")
    if kind is not GrammarKind.JSON_SCHEMA:
        return
    try:
        schema = json.loads(text)
    except RecursionError:
        raise _invalid(kind, "is nested too deeply") from None
    except ValueError as error:
        raise _invalid(kind, f"is not valid JSON: {error}") from None
    if not isinstance(schema, dict | bool):
        raise _invalid(kind, f"must be an object or a boolean, got {text[:40]}")


def _invalid(kind: GrammarKind, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{_FIELDS[kind]}: {text}", field=_FIELDS[kind])
