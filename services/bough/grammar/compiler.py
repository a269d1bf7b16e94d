"""Compiles sources with xgrammar. Imported only by the compiler process: xgrammar brings torch with it."""

from __future__ import annotations

import re
from typing import Any

import xgrammar

from bough.common.sampling import GrammarKind
from bough.common.vocab import Vocabulary, xgrammar_tokenizer_info
from bough.grammar.schema_check import SchemaError
from bough.grammar.sources import Target, prepare

CACHE_BYTES = 256 << 20
"""Of masks of rules, in the compiler: schemas have strings, numbers and white space in common."""

MAX_COMPILED_BYTES = 128 << 20
"""Of the compiled form of one source, which is sent to an executor and kept there."""

_SOURCE_PREFIX = re.compile(r"^\[[\d:]+\] \S+?:\d+: (?:Check failed: \(.*?\) is (?:false|true): )?")


class CompileError(Exception):
    """The source is wrong; the text says where."""


class Compiler:
    """xgrammar's compiler for one vocabulary.

    Args:
        vocabulary: The tokens.
        vocab_size: Rows of the model's logits, which may be more than there are tokens.
        stop_token_ids: Ids that may follow a complete output.
        threads: Threads of one compilation.
    """

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int, stop_token_ids: list[int], threads: int = 2) -> None:
        info = xgrammar_tokenizer_info(vocabulary, vocab_size=vocab_size, stop_token_ids=stop_token_ids)
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)
        self._compiler = xgrammar.GrammarCompiler(
            info, max_threads=threads, cache_enabled=True, cache_limit_bytes=CACHE_BYTES
        )

    def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form, as xgrammar serializes it.

        Raises:
            CompileError: The source is wrong, or no text of this vocabulary fits it.
            MemoryError: It takes more memory than the process may have.
        """
        try:
            prepared = prepare(kind, text)
        except SchemaError as error:
            raise CompileError(str(error)) from None
        except RecursionError:
            raise CompileError("is nested too deeply") from None
        try:
            compiled = self._compile(prepared.target, prepared.text)
            begins = self._can_begin(compiled)
            serialized: str = compiled.serialize_json() if begins else ""
        except (RuntimeError, ValueError, TypeError) as error:
            if "bad_alloc" in str(error):
                raise MemoryError from None
            raise CompileError(_SOURCE_PREFIX.sub("", str(error)).strip() or type(error).__name__) from None
        if len(serialized) > MAX_COMPILED_BYTES:
            raise CompileError(f"is {len(serialized)} bytes when compiled; at most {MAX_COMPILED_BYTES} are kept")
        if not begins:
            raise CompileError("cannot be satisfied: no token of the vocabulary can begin an output")
        return serialized.encode()

    def _compile(self, target: Target, text: str) -> Any:
        if target is Target.REGEX:
            return self._compiler.compile_regex(text)
        if target is Target.STRUCTURAL_TAG:
            return self._compiler.compile_structural_tag(text)
        return self._compiler.compile_grammar(text)

    def _can_begin(self, compiled: Any) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        # False: all tokens are allowed and the mask was left alone.
        return not matcher.fill_next_token_bitmask(self._bitmask, 0) or bool(self._bitmask.any())
