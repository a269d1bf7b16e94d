"""Over random schemas and prompts the demo model writes the same with drafts as without, token by token.

So it does where steps are launched before the results of earlier ones are there.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
import xgrammar

from bough.common.grammar_form import mask_compiler, read_grammar
from bough.common.sampling import Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.executor.engine import Engine
from bough.executor.forced_text import ForcedText
from bough.executor.grammars import GrammarMatcher
from bough.executor.orders import Admission
from bough.executor.runner import ModelRunner
from bough.grammar.compiler import Compiler
from tests.grammar.random_schemas import SchemaMaker
from tests.helpers.engines import (
    EngineDriver,
    admission,
    load_runner,
    make_delayed_engine,
    make_engine,
    random_tokens,
)

NUM_PAIRS = int(os.environ.get("BOUGH_RANDOM_SCHEMAS", "40")) // 2
"""Of a schema and a prompt; `make grammar-long` has 500."""
BATCH = 25
MAX_TOKENS = 200
EOS = [4089, 4087]
VOCAB_SIZE = 4096


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return load_runner(model_dir(), num_pages=BATCH * (MAX_TOKENS // 16 + 4))


class Pairs:
    """Compiled schemas, and engines with each of them."""

    def __init__(self) -> None:
        vocabulary = read_vocabulary(model_dir())
        self.num_at_once = 0
        """Tokens that came with one before them."""
        self._info = xgrammar_tokenizer_info(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=EOS)
        self._masks = mask_compiler(self._info)
        self._compiler = Compiler(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=EOS)
        self._guesses = ForcedText(model_dir(), self._info.decoded_vocab, adds_prefix_space=False)

    def compiled(self, seeds: range) -> dict[int, xgrammar.CompiledGrammar]:
        found: dict[int, xgrammar.CompiledGrammar] = {}
        for seed in seeds:
            written = self._compiler.compile(GrammarKind.JSON_SCHEMA, json.dumps(SchemaMaker(seed).document()))
            found[seed] = self._masks.compile_grammar(read_grammar(written))
        return found

    def request(self, seed: int, grammar: xgrammar.CompiledGrammar, *, drafts: bool, **fields: Any) -> Admission:
        """To write under a schema, with a prompt from its seed."""
        matcher = GrammarMatcher(grammar, self._guesses if drafts else None)
        prompt = random_tokens(5 + seed % 30, seed, VOCAB_SIZE - 100)
        wanted = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text="")
        given = {"seed": seed, "max_tokens": MAX_TOKENS, **fields}
        return admission(seed, prompt, matcher=matcher, grammar=wanted, **given)

    def run(
        self, engine: Engine, compiled: dict[int, xgrammar.CompiledGrammar], *, drafts: bool, temperature: float
    ) -> EngineDriver:
        driver = EngineDriver(engine)
        for seed, grammar in compiled.items():
            driver.admit(self.request(seed, grammar, drafts=drafts, temperature=temperature))
        while (report := driver.step()) is not None or engine.is_under_way:
            self.num_at_once += 0 if report is None else sum(count - 1 for count in report.tokens.counts)
        return driver


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_outputs_are_the_same_token_by_token(
    runner: ModelRunner, temperature: float, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = Pairs()
    num_tokens = num_at_once = 0
    for first in range(1, NUM_PAIRS + 1, BATCH):
        compiled = pairs.compiled(range(first, min(first + BATCH, NUM_PAIRS + 1)))
        without = pairs.run(make_engine(runner, eos=EOS), compiled, drafts=False, temperature=temperature)
        for engine in (make_engine(runner, eos=EOS), make_delayed_engine(runner, eos=EOS)[0]):
            pairs.num_at_once = 0
            with_drafts = pairs.run(engine, compiled, drafts=True, temperature=temperature)
            assert with_drafts.tokens == without.tokens
            assert with_drafts.finish == without.finish
            num_at_once += pairs.num_at_once
        num_tokens += 2 * sum(map(len, without.tokens.values()))
    with capsys.disabled():
        sys.stdout.write(f"\n{NUM_PAIRS} pairs, {num_tokens} tokens, {num_at_once} of them as drafts\n")
    assert num_at_once > num_tokens // 50
