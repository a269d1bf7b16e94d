"""Outputs that are given, on an interpreted GPU: all lines of a step have masks and log probabilities of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bough.common.sampling import FinishReason
from bough.executor.forced_output import ForcedOutput
from bough.executor.orders import Admission
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens
from tests.helpers.interpreted_gpu import interpreted_gpu, make_interpreted_engine

EOS = 2
OUTPUTS = ([7], [8, EOS], random_tokens(5, 5), [EOS, *random_tokens(19, 20)], random_tokens(3, 3))


def requests() -> list[Admission]:
    prompt = random_tokens(30, 7)
    given = [
        replace(
            admission(
                number, prompt, max_tokens=len(output), forced_ids=tuple(output), ignore_eos=True, top_logprobs=0
            ),
            matcher=ForcedOutput(output),
        )
        for number, output in enumerate(OUTPUTS)
    ]
    return [*given, admission(9, random_tokens(20, 9), max_tokens=6)]


def test_given_outputs_have_the_log_probabilities_of_the_cpu_in_as_few_steps(tmp_path: Path) -> None:
    model_dir = write_checkpoint("qwen3", tmp_path / "model")
    expected = EngineDriver(make_engine(load_runner(model_dir), eos=[EOS]))
    expected.admit(*requests())
    expected.run()
    with interpreted_gpu() as gpu:
        engine = make_interpreted_engine(
            model_dir, eos=[EOS], num_pages=40, max_rows=6, token_budget=64, max_context=256
        )
        for lags in (False, True):
            gpu.lags = lags
            driver, steps = EngineDriver(engine), 0
            driver.admit(*requests())
            while not all(number in driver.finish for number in range(len(OUTPUTS))):
                steps += driver.step() is not None
            driver.run()
            assert driver.tokens == expected.tokens and not driver.failures
            assert {driver.finish[number] for number in range(len(OUTPUTS))} == {FinishReason.LENGTH}
            for number, entries in expected.logprobs.items():
                assert [entry.logprob for entry in driver.logprobs[number]] == pytest.approx(
                    [entry.logprob for entry in entries], abs=1e-4
                )
            assert steps <= 4
