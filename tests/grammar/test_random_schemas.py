"""What the demo model writes under random schemas holds for them, with a hot sampler that would write anything."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer

from bough.common.grammar_form import mask_compiler, read_grammar
from bough.common.sampling import FinishReason, Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.executor.grammars import GrammarMatcher
from bough.executor.runner import ModelRunner
from bough.grammar.compiler import Compiler
from bough.grammar.schema_check import CLAIMED
from tests.grammar.random_schemas import SchemaMaker
from tests.grammar.validation import formats
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens

NUM_SCHEMAS = int(os.environ.get("BOUGH_RANDOM_SCHEMAS", "60"))
"""`make grammar-long` sets 1000."""
BATCH = 30
MAX_TOKENS = 600
EOS = [4089, 4087]
VOCAB_SIZE = 4096


@dataclass
class Outcome:
    """What became of the schemas."""

    valid: int = 0
    cut: int = 0
    wrong: list[str] = field(default_factory=list)
    num_tokens: int = 0


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return load_runner(model_dir(), num_pages=BATCH * (MAX_TOKENS // 16 + 4))


def _run(runner: ModelRunner, schemas: dict[int, dict[str, Any]], compiler: Compiler, info: Any) -> Outcome:
    outcome, masks = Outcome(), mask_compiler(info)
    driver = EngineDriver(make_engine(runner, eos=EOS))
    for seed, schema in schemas.items():
        text = json.dumps(schema)
        compiled = masks.compile_grammar(read_grammar(compiler.compile(GrammarKind.JSON_SCHEMA, text)))
        driver.admit(
            admission(
                seed,
                random_tokens(8, seed, VOCAB_SIZE - 100),
                matcher=GrammarMatcher(compiled),
                grammar=Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text=text),
                temperature=1.5,
                seed=seed,
                max_tokens=MAX_TOKENS,
            )
        )
    driver.run()
    tokenizer = Tokenizer.from_file(str(model_dir() / "tokenizer.json"))
    for seed, schema in schemas.items():
        tokens = driver.tokens.get(seed, [])
        outcome.num_tokens += len(tokens)
        if driver.finish.get(seed) is FinishReason.LENGTH:
            outcome.cut += 1
            continue
        written = tokenizer.decode([token for token in tokens if token not in EOS], skip_special_tokens=False)
        try:
            jsonschema.validate(json.loads(written), schema, jsonschema.Draft202012Validator, format_checker=formats)
            outcome.valid += 1
        except (ValueError, jsonschema.ValidationError) as error:
            outcome.wrong.append(f"seed {seed}: {json.dumps(schema)} made {written!r}: {error}"[:2000])
    return outcome


@pytest.mark.timeout(3600)
def test_outputs_hold_for_random_schemas(runner: ModelRunner, capsys: pytest.CaptureFixture[str]) -> None:
    vocabulary = read_vocabulary(model_dir())
    info = xgrammar_tokenizer_info(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=EOS)
    compiler = Compiler(vocabulary, vocab_size=VOCAB_SIZE, stop_token_ids=EOS)
    total: Counter[str] = Counter()
    wrong: list[str] = []
    for first in range(1, NUM_SCHEMAS + 1, BATCH):
        seeds = range(first, min(first + BATCH, NUM_SCHEMAS + 1))
        outcome = _run(runner, {seed: SchemaMaker(seed).document() for seed in seeds}, compiler, info)
        total.update(valid=outcome.valid, cut=outcome.cut, tokens=outcome.num_tokens)
        wrong += outcome.wrong
    with capsys.disabled():
        sys.stdout.write(
            f"\n{NUM_SCHEMAS} schemas, {total['tokens']} tokens: {total['valid']} outputs hold, {len(wrong)} do not, "
            f"{total['cut']} cut at {MAX_TOKENS} tokens\n"
        )
    assert wrong == []
    assert total["valid"] + total["cut"] == NUM_SCHEMAS
    assert total["cut"] <= NUM_SCHEMAS // 4, "most must have come to an end for the figure to say anything"


def test_the_generator_uses_every_keyword_that_is_claimed() -> None:
    seen: set[str] = set()

    def collect(node: Any) -> None:
        if isinstance(node, dict):
            seen.update(node)
        for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            collect(child)

    for seed in range(200):
        collect(SchemaMaker(seed).document())
    assert CLAIMED - seen == set()
