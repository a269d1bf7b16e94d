"""Texts against grammars, over a vocabulary of single bytes."""

from __future__ import annotations

from functools import lru_cache

import xgrammar


@lru_cache(maxsize=1)
def _compiler() -> xgrammar.GrammarCompiler:
    tokens = [bytes([byte]) for byte in range(256)]
    info = xgrammar.TokenizerInfo([*tokens, b"</s>"], vocab_size=257, stop_token_ids=[256])
    return xgrammar.GrammarCompiler(info, max_threads=1)


class Language:
    """The texts that a grammar in EBNF allows."""

    def __init__(self, ebnf: str) -> None:
        self._compiled = _compiler().compile_grammar(ebnf)

    def __contains__(self, text: str) -> bool:
        matcher = xgrammar.GrammarMatcher(self._compiled)
        return bool(matcher.accept_string(text) and matcher.is_completed())
