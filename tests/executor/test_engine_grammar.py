"""Requests with a grammar: what is produced is in the language, and the others of the batch are left alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import xgrammar
from torch import Tensor

from bough.common.sampling import FinishReason, Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.engine import INTERNAL, INVALID
from bough.executor.grammars import GrammarMatcher
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import EngineDriver, admission, generate, load_runner, make_engine, random_tokens
from tests.helpers.tokenizer_files import byte_level

EOS = 2
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 12},
            "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "kind": {"enum": ["tree", "leaf"]},
        },
        "required": ["name", "age", "kind"],
        "additionalProperties": False,
    }
)
GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return load_runner(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> xgrammar.CompiledGrammar:
    return _compiler(tmp_path_factory.mktemp("tokenizer")).compile_json_schema(SCHEMA, any_whitespace=False)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_output_of_a_schema_parses_and_fits_it(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, temperature: float
) -> None:
    plain = admission(99, random_tokens(20, 99), max_tokens=60)
    expected = generate(make_engine(runner), plain)
    driver = EngineDriver(make_engine(runner, eos=[EOS]))
    driver.admit(
        *(
            admission(
                i,
                random_tokens(10 * i, i),
                matcher=GrammarMatcher(compiled),
                grammar=GRAMMAR,
                seed=i,
                temperature=temperature,
                max_tokens=200,
            )
            for i in range(1, 6)
        ),
        plain,
    )
    driver.run()
    for i in range(1, 6):
        assert driver.finish[i] is FinishReason.STOP and driver.tokens[i][-1] == EOS
        # Not strict: with maxLength, xgrammar lets control characters into strings.
        value = json.loads(byte_level().decode(driver.tokens[i][:-1], skip_special_tokens=False), strict=False)
        assert sorted(value) == ["age", "kind", "name"]
        assert len(value["name"]) <= 12 and 0 <= value["age"] <= 99 and value["kind"] in ("tree", "leaf")
    assert driver.tokens[99] == expected[0][: len(driver.tokens[99])]


def test_a_grammar_goes_on_from_the_tokens_produced_elsewhere(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar
) -> None:
    def run(produced: list[int]) -> list[int]:
        driver = EngineDriver(make_engine(runner, eos=[EOS]))
        matcher = GrammarMatcher(compiled)
        driver.admit(
            admission(
                1, random_tokens(9, 1), produced=produced, matcher=matcher, grammar=GRAMMAR, max_tokens=200, seed=4
            )
        )
        driver.run()
        assert driver.finish[1] is FinishReason.STOP
        return driver.tokens[1]

    whole = run([])
    assert run(whole[:5]) == whole[5:]
    assert run(whole) == []


def test_produced_tokens_that_do_not_fit_the_grammar_are_refused(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar
) -> None:
    driver = EngineDriver(make_engine(runner, eos=[EOS]))
    driver.admit(admission(1, [5], produced=[300], matcher=GrammarMatcher(compiled), grammar=GRAMMAR))
    driver.run()
    assert driver.failures[1].code == INVALID and "300" in driver.failures[1].message


def test_a_request_whose_matcher_is_missing_fails_instead_of_running_unconstrained(
    runner: ModelRunner, caplog: pytest.LogCaptureFixture
) -> None:
    driver = EngineDriver(make_engine(runner))
    driver.admit(admission(1, [5], grammar=GRAMMAR))
    driver.run()
    assert driver.failures[1].code == INTERNAL and "cannot be admitted" in caplog.text


class BrokenMatcher:
    """Fails at its third token."""

    def __init__(self, *, in_fill: bool) -> None:
        self._in_fill = in_fill
        self._accepted = 0

    def fill(self, bitmask: Tensor, line: int) -> None:
        if self._in_fill and self._accepted == 2:
            raise RuntimeError("planted")

    def accept(self, token: int) -> bool:
        self._accepted += 1
        return self._in_fill or self._accepted < 3

    batched = None

    def suspect(self) -> None:
        raise AssertionError("is asked by itself")

    def forced(self, most: int, least_chance: float) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        assert num_tokens == 0

    @property
    def is_done(self) -> bool:
        return False


@pytest.mark.parametrize(("in_fill", "says"), [(True, "planted"), (False, "does not fit the grammar")])
def test_a_matcher_that_fails_ends_its_request_alone(
    runner: ModelRunner, caplog: pytest.LogCaptureFixture, in_fill: bool, says: str
) -> None:
    expected = generate(make_engine(runner), admission(2, random_tokens(30, 2)))
    driver = EngineDriver(make_engine(runner))
    driver.admit(
        admission(1, random_tokens(30, 1), matcher=BrokenMatcher(in_fill=in_fill), grammar=GRAMMAR),
        admission(2, random_tokens(30, 2)),
    )
    driver.run()
    assert says in driver.failures[1].message
    assert (len(driver.tokens[1]), driver.finish[1]) == (2, FinishReason.ERROR)
    assert [driver.tokens[2]] == expected
    assert ("planted" in caplog.text) == in_fill


def test_sequences_whose_masks_take_ever_longer_end_and_the_batch_goes_on(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, tmp_path: Path
) -> None:
    # Tokens are followed in a hundredth of the time that it takes to find which may come.
    hostile = _compiler(tmp_path).compile_grammar('root ::= (([a-z ]*)*)* "0"')
    fits = admission(3, random_tokens(30, 3), matcher=GrammarMatcher(compiled), grammar=GRAMMAR, max_tokens=60)
    free = admission(4, random_tokens(30, 4), max_tokens=60)
    driver = EngineDriver(make_engine(runner))
    driver.admit(
        *(
            admission(i, random_tokens(30, i), matcher=GrammarMatcher(hostile), grammar=GRAMMAR, max_tokens=200)
            for i in (1, 2)
        ),
        fits,
        free,
    )
    driver.run()
    for request in (1, 2):
        assert "the grammar is too" in driver.failures[request].message
        assert driver.finish[request] is FinishReason.ERROR and len(driver.tokens[request]) > 10
    assert [driver.tokens[4]] == generate(make_engine(runner), free)
    assert driver.finish[3] is not FinishReason.ERROR and 3 not in driver.failures


def _compiler(folder: Path) -> xgrammar.GrammarCompiler:
    path = folder / "tokenizer.json"
    byte_level().save(str(path))
    info = xgrammar_tokenizer_info(read_vocabulary(path), vocab_size=512, stop_token_ids=[EOS])
    return xgrammar.GrammarCompiler(info)
