"""An engine on a GPU writes with drafts what it writes without, and what the CPU writes."""

from __future__ import annotations

from pathlib import Path

import pytest
import xgrammar

from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.demo import model_dir
from bough.executor.engine import Engine
from bough.executor.forced_text import ForcedText
from bough.executor.runner import ModelRunner
from tests.executor import test_jump_forward as keys
from tests.executor.test_jump_forward_schemas import BATCH, EOS, MAX_TOKENS, Pairs
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import _DRAWN_TIE, _GREEDY_TIE, check_nothing_is_lost
from tests.helpers.engines import EngineDriver, load_runner, make_engine, make_gpu_engine

pytestmark = pytest.mark.gpu

NUM_PAGES = BATCH * (MAX_TOKENS // 16 + 4)
SEEDS = range(1, BATCH + 1)
MAX_ROWS = 16
"""Fewer than requests, so that some begin beside others that have drafts."""


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs()


@pytest.fixture(scope="module")
def compiled(pairs: Pairs) -> dict[int, xgrammar.CompiledGrammar]:
    return pairs.compiled(SEEDS)


@pytest.fixture(scope="module")
def runner() -> ModelRunner:
    return load_runner(model_dir(), num_pages=NUM_PAGES)


@pytest.fixture(scope="module")
def engine() -> Engine:
    return make_gpu_engine(model_dir(), eos=EOS, num_pages=NUM_PAGES, max_rows=MAX_ROWS)


class Judge:
    """Compares with the tokens of the CPU, where another way may be taken only at a tie."""

    def __init__(self, runner: ModelRunner, pairs: Pairs, compiled: dict[int, xgrammar.CompiledGrammar]) -> None:
        self._runner, self._pairs, self._compiled = runner, pairs, compiled

    def num_ties(self, driver: EngineDriver, expected: EngineDriver, temperature: float) -> int:
        """How many requests took another way; asserts that all others are the same to their end."""
        ties = 0
        for seed, right in expected.tokens.items():
            found = driver.tokens[seed]
            places = range(min(len(found), len(right)))
            place = next((place for place in places if found[place] != right[place]), None)
            if place is None:
                assert (found, driver.finish[seed]) == (right, expected.finish[seed])
                continue
            is_tie = self._is_tie(seed, right[:place], found[place], right[place], temperature)
            assert is_tie, f"seed {seed}, token {place}: {found[place]}, expected {right[place]}"
            ties += 1
        return ties

    def _is_tie(self, seed: int, produced: list[int], wanted: int, instead_of: int, temperature: float) -> bool:
        """Whether a bias as small as rounding makes the CPU choose the other token."""
        tie = _DRAWN_TIE if temperature else _GREEDY_TIE
        driver = EngineDriver(make_engine(self._runner, eos=EOS))
        driver.admit(
            self._pairs.request(
                seed,
                self._compiled[seed],
                drafts=False,
                temperature=temperature,
                produced=produced,
                max_tokens=len(produced) + 1,
                logit_bias=((wanted, tie), (instead_of, -tie)),
            )
        )
        driver.run()
        return driver.tokens[seed] == [wanted]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_outputs_under_random_schemas_are_those_without_drafts_and_those_of_the_cpu(
    runner: ModelRunner,
    engine: Engine,
    pairs: Pairs,
    compiled: dict[int, xgrammar.CompiledGrammar],
    temperature: float,
) -> None:
    judge = Judge(runner, pairs, compiled)
    expected = pairs.run(make_engine(runner, eos=EOS), compiled, drafts=False, temperature=temperature)
    num_tokens = sum(map(len, expected.tokens.values()))
    for drafts in (False, True):
        pairs.num_at_once = 0
        driver = pairs.run(engine, compiled, drafts=drafts, temperature=temperature)
        assert not driver.failures
        assert judge.num_ties(driver, expected, temperature) <= num_tokens // 1000
        check_nothing_is_lost(engine)
    assert pairs.num_at_once


def test_every_sampling_gives_the_tokens_and_log_probabilities_of_the_cpu_in_fewer_steps(tmp_path: Path) -> None:
    keys.TOKENIZER.save(str(tmp_path / "tokenizer.json"))
    info = xgrammar_tokenizer_info(read_vocabulary(tmp_path), vocab_size=512, stop_token_ids=[keys.EOS])
    compiled = xgrammar.GrammarCompiler(info).compile_json_schema(keys.SCHEMA, any_whitespace=False)
    guesses = ForcedText(tmp_path, info.decoded_vocab, adds_prefix_space=False)
    checkpoint = write_checkpoint("qwen3", tmp_path / "model")
    run = keys.Run(load_runner(checkpoint), compiled, guesses)
    requests = [run.request(number, **sampling) for number, sampling in enumerate(keys.SAMPLINGS * 2, 1)]
    expected, _ = run.outcome(requests, drafts=False, plain=4)
    engine = make_gpu_engine(checkpoint, eos=[keys.EOS])
    num_steps = []
    for drafts in (False, True):
        driver = EngineDriver(engine)
        driver.admit(*run.admissions(requests, drafts=drafts, plain=4))
        before = engine._num_steps
        driver.run()
        num_steps.append(engine._num_steps - before)
        keys.assert_same(driver, expected)
        check_nothing_is_lost(engine)
    assert num_steps[1] < num_steps[0]
