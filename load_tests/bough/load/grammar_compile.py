"""How long grammars take to compile and masks to fill, with a vocabulary of the size that models have.

`python -m bough.load.grammar_compile` trains a byte-level BPE on the Python files of this environment and prints, for
schemas by xgrammar's own converter and by ours, with all masks made ahead and with masks made when they are asked for:
the first compilation, one of a schema with other names, what it is when it travels, and the masks of a text.
"""

from __future__ import annotations

import argparse
import json
import random
import site
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import xgrammar
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from bough.common.grammar_form import MASK_CACHE_BYTES, mask_compiler, read_grammar, write_grammar
from bough.common.vocab import parse_vocabulary, xgrammar_tokenizer_info
from bough.grammar.schema_grammar import schema_grammar

VALUES = ('"hello world, this is a text"', "-1234", '"a short text"', '"green"', '["a","bcd efg"]', "12.5", "true")
TYPES: tuple[dict[str, Any], ...] = (
    {"type": "string"},
    {"type": "integer"},
    {"type": "string", "maxLength": 40},
    {"enum": ["red", "green"]},
    {"type": "array", "items": {"type": "string"}},
    {"type": "number", "minimum": 0, "maximum": 100},
    {"type": "boolean"},
)


def ordinary_schema(number: int) -> tuple[str, str]:
    """A schema of seven properties, whose names have a number in them, and a text that holds for it."""
    names = [f"field_{number}_{index}" for index in range(len(TYPES))]
    schema = {"type": "object", "properties": dict(zip(names, TYPES, strict=True)), "required": names}
    pairs = (f'"{name}": {value}' for name, value in zip(names, VALUES, strict=True))
    return json.dumps(schema | {"additionalProperties": False}), "{" + ", ".join(pairs) + "}"


def train(num_tokens: int, max_chars: int) -> Tokenizer:
    """A byte-level BPE of the Python files of this environment."""

    def texts() -> Iterator[str]:
        files = sorted(Path(site.getsitepackages()[0]).rglob("*.py"))
        random.Random(0).shuffle(files)
        size = 0
        for path in files:
            text = path.read_text(encoding="utf-8", errors="ignore")[: max_chars - size]
            size += len(text)
            yield text
            if size == max_chars:
                return

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=num_tokens,
        min_frequency=2,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"],
    )
    tokenizer.train_from_iterator(texts(), trainer)
    return tokenizer


class Bench:
    """One vocabulary."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._size = tokenizer.get_vocab_size()
        vocabulary = parse_vocabulary(json.loads(tokenizer.to_str()))
        self._info = xgrammar_tokenizer_info(vocabulary, vocab_size=self._size, stop_token_ids=[0])

    def run(self, *, ours: bool, ahead: bool, threads: int) -> str:
        """Compile three schemas that differ in names, and fill the masks of a text of the last; a line of the table."""
        compiler = self._compiler(ahead, threads)
        times_s: list[float] = []
        for number in range(3):
            schema, text = ordinary_schema(number)
            start_s = time.perf_counter()
            grammar = _grammar(schema, ours)
            compiled = compiler.compile_grammar(grammar)
            written = compiled.serialize_json().encode() if ahead else write_grammar(grammar)
            times_s.append(time.perf_counter() - start_s)
        elsewhere = self._compiler(ahead, threads)
        start_s = time.perf_counter()
        if ahead:
            compiled = xgrammar.CompiledGrammar.deserialize_json(written.decode(), self._info)
        else:
            compiled = elsewhere.compile_grammar(read_grammar(written))
        load_s = time.perf_counter() - start_s
        first_us, second_us = (self._fills_us(compiled, text) for _ in range(2))
        cells = (
            *("ours" if ours else "xgrammar", "ahead" if ahead else "when asked for", str(threads)),
            *(f"{times_s[0]:.3f}", f"{times_s[2]:.3f}", f"{len(written) / 1e6:.2f}", f"{load_s:.3f}"),
            *(f"{sum(first_us) / 1e3:.1f}", f"{max(first_us) / 1e3:.1f}", f"{sum(second_us) / len(second_us):.0f}"),
        )
        return f"| {' | '.join(cells)} |\n"

    def _compiler(self, ahead: bool, threads: int) -> xgrammar.GrammarCompiler:
        if ahead:
            return xgrammar.GrammarCompiler(self._info, max_threads=threads, cache_limit_bytes=MASK_CACHE_BYTES)
        return mask_compiler(self._info, threads=threads)

    def _fills_us(self, compiled: xgrammar.CompiledGrammar, text: str) -> list[float]:
        bitmask = xgrammar.allocate_token_bitmask(1, self._size)
        matcher = xgrammar.GrammarMatcher(compiled)
        taken: list[float] = []
        for token in self._tokenizer.encode(text).ids:
            start_s = time.perf_counter()
            matcher.fill_next_token_bitmask(bitmask, 0)
            taken.append((time.perf_counter() - start_s) * 1e6)
            if not matcher.accept_token(token):
                raise AssertionError(f"{text!r} is not accepted at {self._tokenizer.decode([token])!r}")
        return taken


def _grammar(schema: str, ours: bool) -> xgrammar.Grammar:
    if ours:
        return xgrammar.Grammar.from_ebnf(schema_grammar(schema))
    return xgrammar.Grammar.from_json_schema(schema, max_whitespace_cnt=16)


def main(argv: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=150_000, help="most tokens of the vocabulary")
    parser.add_argument("--chars", type=int, default=60_000_000, help="characters it is trained on")
    arguments = parser.parse_args(argv)
    tokenizer = train(arguments.tokens, arguments.chars)
    bench = Bench(tokenizer)
    sys.stdout.write(
        f"{tokenizer.get_vocab_size()} tokens\n\n| converter | masks | threads | first, s | third, s | MB | load, s | "
        "masks of a first text, ms | the longest, ms | of a second, us each |\n"
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|\n"
    )
    for ours in (False, True):
        for ahead in (True, False):
            for threads in (1, 2):
                sys.stdout.write(bench.run(ours=ours, ahead=ahead, threads=threads))


if __name__ == "__main__":
    main()
