"""Compiles sources with xgrammar. Imported only by the compiler process: xgrammar brings torch with it."""

from __future__ import annotations

import re

import xgrammar

from bough.common.sampling import GrammarKind
from bough.common.vocab import Vocabulary, xgrammar_tokenizer_info

_ANY_OBJECT = '{"type": "object"}'
MAX_WHITESPACE = 16
"""Characters of white space in a row between the parts of a JSON text: room for the indentation of deep nesting.

With no bound, a model that does not know how to go on puts line breaks until its tokens are used up.
"""

_SOURCE_PREFIX = re.compile(r"^\[[\d:]+\] \S+?:\d+: (?:Check failed: \(.*?\) is (?:false|true): )?")


class CompileError(Exception):
    """The source is wrong; the text says where."""


class Compiler:
    """xgrammar's compiler for one vocabulary.

    Args:
        vocabulary: The tokens.
        vocab_size: Rows of the model's logits, which may be more than there are tokens.
        stop_token_ids: Ids that may follow a complete output.
    """

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int, stop_token_ids: list[int], threads: int = 2) -> None:
        info = xgrammar_tokenizer_info(vocabulary, vocab_size=vocab_size, stop_token_ids=stop_token_ids)
        self._compiler = xgrammar.GrammarCompiler(info, max_threads=threads, cache_enabled=False)

    def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form, as xgrammar serializes it.

        Raises:
            CompileError: The source is wrong.
            MemoryError: It takes more memory than the process may have.
        """
        try:
            if kind is GrammarKind.REGEX:
                compiled = self._compiler.compile_regex(text)
            else:
                schema = _ANY_OBJECT if kind is GrammarKind.JSON_OBJECT else text
                compiled = self._compiler.compile_json_schema(schema, max_whitespace_cnt=MAX_WHITESPACE)
            serialized: str = compiled.serialize_json()
        except (RuntimeError, ValueError, TypeError) as error:
            if "bad_alloc" in str(error):
                raise MemoryError from None
            raise CompileError(_SOURCE_PREFIX.sub("", str(error)).strip() or type(error).__name__) from None
        return serialized.encode()
