"""Outputs that are given: computed at once, with the log probabilities of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bough.common.errors import InvalidRequestError
from bough.common.model import ModelIdentity
from bough.common.sampling import FinishReason, Grammar, GrammarKind, Reasoning, SamplingParams
from bough.executor.engine import INVALID
from bough.executor.forced_output import ForcedOutput, forced_output
from bough.executor.jump_forward import MAX_DRAFTS
from bough.executor.orders import Admission
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.engines import (
    EngineDriver,
    admission,
    generate,
    load_runner,
    make_delayed_engine,
    make_engine,
    random_tokens,
)

EOS = 2
IDENTITY = ModelIdentity(model="tiny", revision="0123", vocab_hash=b"v" * 32, vocab_size=512, max_context=1024)
PROMPT = random_tokens(50, 7)
LENGTHS = (1, 2, 5, MAX_DRAFTS + 9, 3, 17)


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return load_runner(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))


def forced(request: int, prompt: list[int], tokens: list[int], **fields: Any) -> Admission:
    """A request whose output is given, as the server makes it."""
    sampling = {"max_tokens": len(tokens), "forced_ids": tuple(tokens), "ignore_eos": True, "top_logprobs": 0}
    made = admission(request, prompt, **{**sampling, **fields})
    return replace(made, matcher=forced_output(made.sampling, len(prompt), IDENTITY))


def choices(*, ending: bool = True) -> list[list[int]]:
    """Outputs of several lengths; some have an end-of-sequence id in their middle and at their end."""
    found = [random_tokens(length, 100 + length) for length in LENGTHS]
    if ending:
        found[2][1] = found[2][-1] = found[4][0] = EOS
    return found


def run(runner: ModelRunner, *admissions: Admission, eos: tuple[int, ...] = (EOS,)) -> EngineDriver:
    driver = EngineDriver(make_engine(runner, eos=eos))
    driver.admit(*admissions)
    driver.run()
    return driver


@pytest.mark.parametrize("name", TINY)
def test_log_probabilities_are_those_of_transformers_alone_in_a_batch_cold_and_warm(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    runner, outputs = load_runner(model_dir), choices()
    expected: list[list[float]] = []
    for output in outputs:
        with torch.no_grad():
            logits = model(torch.tensor([PROMPT + output])).logits[0, len(PROMPT) - 1 : -1].float()
        found = logits.log_softmax(-1)
        expected.append(found[torch.arange(len(output)), torch.tensor(output)].tolist())

    def check(driver: EngineDriver, request: int, number: int) -> None:
        assert driver.tokens[request] == outputs[number]
        assert driver.finish[request] is FinishReason.LENGTH
        assert [entry.logprob for entry in driver.logprobs[request]] == pytest.approx(expected[number], abs=2e-4)

    for number, output in enumerate(outputs):
        check(run(runner, forced(1, PROMPT, output, temperature=number % 2)), 1, number)
    driver = EngineDriver(make_engine(runner, eos=[EOS]))
    plain = [admission(900 + i, random_tokens(20 + i, i), max_tokens=60, ignore_eos=True) for i in range(4)]
    for first in (1, 101):  # cold, then warm
        driver.admit(*(forced(first + number, PROMPT, output) for number, output in enumerate(outputs)))
        driver.admit(*(replace(entry, request=entry.request + first) for entry in plain))
        driver.run()
        for number in range(len(outputs)):
            check(driver, first + number, number)
    assert driver.cached[101] == len(PROMPT) - 1
    expected_plain = generate(make_engine(runner, eos=[EOS]), *plain)
    assert [driver.tokens[entry.request + 1] for entry in plain] == expected_plain


def test_all_tokens_behind_the_first_are_computed_in_one_step_of_all_that_come_together(runner: ModelRunner) -> None:
    driver = EngineDriver(make_engine(runner, eos=[EOS]))
    outputs = choices()
    driver.admit(forced(99, PROMPT, [5]))
    driver.run()
    driver.admit(*(forced(number, PROMPT, output) for number, output in enumerate(outputs)))
    first = driver.step()
    assert [driver.tokens[number] for number in range(len(outputs))] == [output[:1] for output in outputs]
    second = driver.step()
    assert first is not None and second is not None and second.step == first.step + 1
    assert [driver.tokens[number] for number in range(len(outputs))] == outputs
    driver.run()


@pytest.mark.parametrize("limits", [{"token_budget": 45}, {"max_lines": 42}], ids=str)
def test_limits_of_a_step_and_an_engine_that_runs_ahead_change_nothing(
    runner: ModelRunner, limits: dict[str, int]
) -> None:
    outputs = choices()
    requests = [forced(number, random_tokens(9, number % 2), output) for number, output in enumerate(outputs)]
    expected = run(runner, *requests)
    # Matchers have come to their end with the first engine.
    requests = [forced(number, random_tokens(9, number % 2), output) for number, output in enumerate(outputs)]
    engine, pipeline = make_delayed_engine(runner, eos=[EOS], **limits)
    driver = EngineDriver(engine)
    driver.admit(*requests, admission(99, random_tokens(30, 3), max_tokens=40))
    driver.run()
    assert {number: driver.tokens[number] for number in range(len(outputs))} == expected.tokens
    for number, entries in expected.logprobs.items():
        assert [entry.logprob for entry in driver.logprobs[number]] == pytest.approx(
            [entry.logprob for entry in entries], abs=1e-4
        )
    assert pipeline.num_drafts > 20


def test_a_given_output_goes_on_after_a_failover(runner: ModelRunner) -> None:
    output = choices()[3]
    whole = run(runner, forced(1, PROMPT, output))
    for produced in (1, 7, len(output) - 1, len(output)):
        again = forced(1, PROMPT, output)
        rest = run(runner, replace(again, produced=output[:produced]))
        assert rest.tokens[1] == output[produced:]
        assert rest.finish[1] is FinishReason.LENGTH
        known = [entry.logprob for entry in rest.logprobs.get(1, [])]
        assert known == pytest.approx([entry.logprob for entry in whole.logprobs[1][produced:]], abs=1e-4)


def test_produced_tokens_that_are_not_those_given_are_refused(runner: ModelRunner) -> None:
    driver = run(runner, replace(forced(1, PROMPT, [5, 6]), produced=[7]))
    assert driver.failures[1].code == INVALID


def test_a_matcher_allows_the_next_token_alone_and_goes_back() -> None:
    matcher, bits = ForcedOutput((5, 31, 32, 511)), torch.full((2, 16), -1, dtype=torch.int32)

    def allowed() -> list[int]:
        matcher.fill(bits, 1)
        return [token for token in range(512) if int(bits[1, token // 32]) >> token % 32 & 1]

    for token in (5, 31, 32, 511):
        assert allowed() == [token] and not matcher.is_done
        assert not matcher.accept(token + 1) and matcher.accept(token)
    assert allowed() == [] and matcher.is_done and not matcher.accept(5)
    matcher.rollback(3)
    assert allowed() == [31]
    assert (matcher.forced(2, 1.0), matcher.forced(9, 1.0)) == ((31, 32), (31, 32, 511))
    assert bool((bits[0] == -1).all())


GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.REGEX, text="a+")
GIVEN = SamplingParams(forced_ids=(1, 2, 3), max_tokens=3, ignore_eos=True)


@pytest.mark.parametrize(
    ("params", "words"),
    [
        (replace(GIVEN, grammar=GRAMMAR), "come with a grammar or a reasoning part"),
        (replace(GIVEN, reasoning=Reasoning(end="</think>")), "come with a grammar or a reasoning part"),
        (replace(GIVEN, max_tokens=4), "are 3 and max_tokens is 4"),
        (replace(GIVEN, ignore_eos=False), "accepted are no stop_token_ids, and ignore_eos"),
        (replace(GIVEN, stop_token_ids=(2,)), "accepted are no stop_token_ids, and ignore_eos"),
        (replace(GIVEN, forced_ids=(1, 2, 512)), "hold 512, accepted are token ids from 0 to 511"),
    ],
)
def test_what_could_end_a_given_output_or_change_it_is_refused(params: SamplingParams, words: str) -> None:
    with pytest.raises(InvalidRequestError, match=f"forced_ids: .*{words}"):
        forced_output(params, 1, IDENTITY)


def test_a_given_output_must_fit_behind_its_prompt() -> None:
    forced_output(GIVEN, IDENTITY.max_context - 3, IDENTITY)
    with pytest.raises(InvalidRequestError, match="are 3, accepted are at most 2"):
        forced_output(GIVEN, IDENTITY.max_context - 2, IDENTITY)
