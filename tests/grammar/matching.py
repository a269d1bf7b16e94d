"""Texts against grammars, over a vocabulary of single bytes."""

from __future__ import annotations

import random
from functools import lru_cache

import xgrammar


@lru_cache(maxsize=1)
def _compiler() -> xgrammar.GrammarCompiler:
    tokens = [bytes([byte]) for byte in range(256)]
    info = xgrammar.TokenizerInfo([*tokens, b"</s>"], vocab_size=257, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(info, max_threads=1)


def tag_language(structural_tag: str) -> Language:
    """The texts that a structural tag allows."""
    return Language(compiled=_compiler().compile_structural_tag(structural_tag))


class Language:
    """The texts that a grammar in EBNF allows."""

    def __init__(self, ebnf: str = "", *, compiled: xgrammar.CompiledGrammar | None = None) -> None:
        self._compiled = _compiler().compile_grammar(ebnf) if compiled is None else compiled

    def __contains__(self, text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return bool(matcher.accept_string(text) and matcher.is_completed())

    def sample(self, source: random.Random) -> str:
        """A text of the language, byte by byte as it happens."""
        matcher, written = xgrammar.GrammarMatcher(self._compiled), bytearray()
        bitmask = xgrammar.allocate_token_bitmask(1, 257)
        while True:
            matcher.fill_next_token_bitmask(bitmask, 0)
            words = [int(word) & 0xFFFFFFFF for word in bitmask[0]]
            token = source.choice([token for token in range(257) if words[token // 32] >> token % 32 & 1])
            assert matcher.accept_token(token)
            if token == 256:
                return written.decode()
            written.append(token)
