"""Compiles sources with xgrammar. Imported only by the compiler process: xgrammar brings torch with it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import xgrammar

from bough.common import grammar_warmup
from bough.common.grammar_form import mask_compiler, write_grammar
from bough.common.sampling import GrammarKind
from bough.common.vocab import Vocabulary, xgrammar_tokenizer_info
from bough.grammar.probe import MAX_STEP_S, Probe
from bough.grammar.schema_check import SchemaError
from bough.grammar.sources import Target, prepare

MAX_COMPILED_BYTES = 16 << 20
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
    """

    def __init__(self, vocabulary: Vocabulary, *, vocab_size: int, stop_token_ids: list[int]) -> None:
        info = xgrammar_tokenizer_info(vocabulary, vocab_size=vocab_size, stop_token_ids=stop_token_ids)
        self._vocab_size = vocab_size
        self._bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)
        sizes = np.fromiter(map(len, info.decoded_vocab), np.int64, vocab_size)
        self._probe = Probe(sizes, stop_token_ids)
        self._compiler = mask_compiler(info)

    def warm_up(self) -> None:
        """Make the masks that most schemas share."""
        prepared = prepare(GrammarKind.JSON_SCHEMA, grammar_warmup.SCHEMA)
        compiled = self._compiler.compile_grammar(_grammar(prepared.target, prepared.text))
        grammar_warmup.walk(compiled, self._vocab_size)

    def compile(self, kind: GrammarKind, text: str) -> bytes:
        """The compiled form, as `common.grammar_form` has it.

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
            grammar = _grammar(prepared.target, prepared.text)
            compiled = self._compiler.compile_grammar(grammar)
            begins = self._can_begin(compiled)
            step_s = self._probe.slowest_step_s(compiled) if begins else 0.0
            written = write_grammar(grammar)
        except (RuntimeError, ValueError, TypeError) as error:
            if "bad_alloc" in str(error):
                raise MemoryError from None
            raise CompileError(_SOURCE_PREFIX.sub("", str(error)).strip() or type(error).__name__) from None
        if step_s > MAX_STEP_S:
            took, most = f"{step_s * 1e3:.0f} ms", f"{MAX_STEP_S * 1e3:.0f} ms"
            raise CompileError(
                f"is too ambiguous: a token takes {took} to follow, at most {most} are accepted; simplify it"
            )
        if len(written) > MAX_COMPILED_BYTES:
            raise CompileError(f"is {len(written)} bytes when compiled; at most {MAX_COMPILED_BYTES} are kept")
        if not begins:
            raise CompileError("cannot be satisfied: no token of the vocabulary can begin an output")
        return written

    def _can_begin(self, compiled: Any) -> bool:
        matcher = xgrammar.GrammarMatcher(compiled)
        # False: all tokens are allowed and the mask was left alone.
        return not matcher.fill_next_token_bitmask(self._bitmask, 0) or bool(self._bitmask.any())


def _grammar(target: Target, text: str) -> xgrammar.Grammar:
    if target is Target.STRUCTURAL_TAG:
        return xgrammar.Grammar.from_structural_tag(text)
    return xgrammar.Grammar.from_ebnf(text)
