"""The form in which grammars travel and are kept, and what makes masks of it.

A checked grammar is written out as xgrammar's own JSON, some tens of kilobytes. Masks of tokens are no part of it: they
would be megabytes and seconds of work with a vocabulary of 150,000, and most of them are never asked for. Each is made
where and when it is first needed, and rules that several grammars have in common share theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xgrammar

MASK_CACHE_BYTES = 256 << 20
"""Of masks that grammars share: most have strings, numbers and white space in common."""


def grammar_format() -> str:
    """Which library and version writes this form here; another one may not read it."""
    from importlib.metadata import version

    from xgrammar.config import get_serialization_version

    return f"xgrammar-{version('xgrammar')}/{get_serialization_version()}/grammar"


def mask_compiler(info: xgrammar.TokenizerInfo, *, threads: int = 1) -> xgrammar.GrammarCompiler:
    """What makes grammars of one vocabulary ready to be matched, their masks to be filled as they are asked for."""
    import xgrammar

    return xgrammar.GrammarCompiler(
        info, max_threads=threads, cache_limit_bytes=MASK_CACHE_BYTES, enable_dynamic_compilation=True
    )


def write_grammar(grammar: xgrammar.Grammar) -> bytes:
    """The form of a grammar."""
    serialized: str = grammar.serialize_json()
    return serialized.encode()


def read_grammar(data: bytes) -> xgrammar.Grammar:
    """The grammar of a form. RuntimeError or ValueError where it is none."""
    import xgrammar

    return xgrammar.Grammar.deserialize_json(data.decode())
