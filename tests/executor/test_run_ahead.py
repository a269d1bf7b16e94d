"""An engine that launches steps before it has seen the tokens of earlier ones gives the tokens of one that waits."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import xgrammar
from torch import Tensor

from bough.common.sampling import FinishReason
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.batch import ForwardBatch
from bough.executor.engine import INTERNAL
from bough.executor.grammars import GrammarMatcher
from bough.executor.loop import EngineLoop
from bough.executor.orders import Admission, Orders, StepReport
from bough.executor.pipeline.base import DeviceFailedError
from bough.executor.runner import ModelRunner
from tests.executor.test_engine import RunnerProxy
from tests.executor.test_engine_grammar import EOS, GRAMMAR, SCHEMA, BrokenMatcher
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import check_nothing_is_lost, compare, drive, random_operations
from tests.helpers.engines import (
    DelayedPipeline,
    EngineDriver,
    admission,
    generate,
    load_runner,
    make_delayed_engine,
    make_engine,
    random_tokens,
)
from tests.helpers.tokenizer_files import byte_level


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runner(model_dir: Path) -> ModelRunner:
    return load_runner(model_dir)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> xgrammar.CompiledGrammar:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_level().save(str(path))
    info = xgrammar_tokenizer_info(read_vocabulary(path), vocab_size=512, stop_token_ids=[EOS])
    return xgrammar.GrammarCompiler(info).compile_json_schema(SCHEMA, any_whitespace=False)


def delayed(runner: ModelRunner, **limits: Any) -> tuple[EngineDriver, DelayedPipeline]:
    engine, pipeline = make_delayed_engine(runner, **limits)
    return EngineDriver(engine), pipeline


def alone(runner: ModelRunner, *admissions: Admission, eos: tuple[int, ...] = ()) -> EngineDriver:
    """Requests on an engine that waits for each step."""
    driver = EngineDriver(make_engine(runner, eos=eos))
    driver.admit(*admissions)
    return driver.run()


SAMPLINGS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.9, "top_p": 0.95, "top_k": 80, "frequency_penalty": 0.3},
    {"temperature": 1.0, "presence_penalty": 0.7, "repetition_penalty": 1.2},
    {"repetition_penalty": 1.4, "logit_bias": ((5, 4.0), (77, -100.0))},
    {"temperature": 1.0, "min_p": 0.05, "min_tokens": 12, "stop_token_ids": tuple(range(3, 100))},
    {"temperature": 0.7, "top_logprobs": 3},
]


@pytest.mark.parametrize("depth", [2, 3, 5])
def test_the_tokens_are_those_of_an_engine_that_waits(runner: ModelRunner, depth: int) -> None:
    requests = [
        admission(i + 1, random_tokens(7 * i + 1, i), seed=i, max_tokens=20 + i, **sampling)
        for i, sampling in enumerate(SAMPLINGS * 3)
    ]
    expected = alone(runner, *requests)
    driver, pipeline = delayed(runner, depth=depth, token_budget=60)
    driver.admit(*requests)
    driver.run()
    assert driver.tokens == expected.tokens
    assert driver.finish == expected.finish and FinishReason.STOP in driver.finish.values()
    assert driver.logprobs == expected.logprobs and driver.logprobs
    assert pipeline.most_under_way == depth and not pipeline.num_settled
    check_nothing_is_lost(driver.engine)


def test_no_token_after_a_stop_that_is_seen_late_is_reported_or_kept_in_the_cache(runner: ModelRunner) -> None:
    prompt = random_tokens(29, 1)
    [plain] = generate(make_engine(runner), admission(1, prompt, max_tokens=40))
    stop = plain[6]
    cut = plain[: plain.index(stop) + 1]
    follow_up = [*prompt, *cut, 200, 201, 202]
    expected = alone(runner, admission(3, follow_up, max_tokens=20)).tokens[3]
    driver, pipeline = delayed(runner, eos=[stop])
    driver.admit(admission(1, prompt, max_tokens=40), admission(2, prompt[::-1], max_tokens=40, ignore_eos=True))
    driver.run()
    assert (driver.tokens[1], driver.finish[1]) == (cut, FinishReason.STOP)
    assert pipeline.most_under_way == 3
    check_nothing_is_lost(driver.engine)
    # What the steps after the stop wrote must not be found by a prompt that goes on another way.
    driver.admit(admission(3, follow_up, max_tokens=20, ignore_eos=True))
    driver.run()
    assert driver.tokens[3] == expected
    assert driver.cached[3] >= len(prompt) + len(cut) - 1


def test_requests_of_one_token_end_without_a_second_one_under_way(runner: ModelRunner) -> None:
    requests = [admission(i, random_tokens(10 * i, i), max_tokens=1 + i % 2) for i in range(1, 12)]
    expected = alone(runner, *requests)
    driver, _ = delayed(runner, max_rows=4)
    driver.admit(*requests)
    driver.run()
    assert driver.tokens == expected.tokens
    assert set(driver.finish.values()) == {FinishReason.LENGTH}
    check_nothing_is_lost(driver.engine)


@pytest.mark.parametrize("steps_before", [1, 2, 3, 6])
def test_a_request_that_is_cancelled_while_its_tokens_are_under_way_is_not_heard_of_again(
    runner: ModelRunner, steps_before: int
) -> None:
    first = [admission(i, random_tokens(30 + i, i), max_tokens=100) for i in range(1, 9)]
    second = [admission(i + 20, random_tokens(30 + i, i + 20), max_tokens=30) for i in range(1, 9)]
    expected = alone(runner, *second).tokens
    driver, _ = delayed(runner, max_rows=8)
    driver.admit(*first)
    for _ in range(steps_before):
        driver.step()
    assert driver.engine.is_under_way
    before = dict(driver.tokens)
    driver.cancel(*before, *(entry.request for entry in first))
    driver.admit(*second)  # they take over the rows whose last tokens are still under way
    driver.run()
    assert {request: driver.tokens[request] for request in expected} == expected
    assert all(driver.tokens[request] == tokens for request, tokens in before.items())
    check_nothing_is_lost(driver.engine)


def test_a_request_begun_anew_while_tokens_of_its_first_life_are_under_way_gets_none_of_them(
    runner: ModelRunner,
) -> None:
    entry = admission(1, random_tokens(30, 1), max_tokens=20)
    expected = alone(runner, entry).tokens[1]
    driver, _ = delayed(runner)
    driver.admit(entry)
    for _ in range(4):
        driver.step()
    assert driver.engine.is_under_way
    driver.tokens, driver.cached = {}, {}
    driver.apply(Orders(cancels=[1], admissions=[entry]))
    driver.run()
    assert driver.tokens[1] == expected


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.9, "frequency_penalty": 0.5, "top_k": 50}])
def test_requests_that_give_way_while_their_tokens_are_under_way_get_the_same_ones(
    runner: ModelRunner, sampling: dict[str, Any]
) -> None:
    # Each grows from 2 to 12 pages, more than admission keeps free.
    requests = [admission(i, random_tokens(30, i), max_tokens=160, seed=i, **sampling) for i in range(1, 7)]
    expected = alone(runner, *requests)
    driver, pipeline = delayed(load_runner(runner.config.model_dir, num_pages=24))
    driver.admit(*requests)
    driver.run()
    assert driver.retracted and pipeline.most_under_way == 3
    assert driver.tokens == expected.tokens
    check_nothing_is_lost(driver.engine)


def test_a_lone_request_that_outgrows_the_pool_ends_after_its_last_token_under_way(model_dir: Path) -> None:
    small = load_runner(model_dir, num_pages=5)
    entry = admission(1, random_tokens(40, 1), max_tokens=100)
    expected = alone(small, entry)
    driver, _ = delayed(small)
    driver.admit(entry)
    driver.run()
    assert driver.tokens == expected.tokens and len(driver.tokens[1]) == 80 - 40 + 1
    assert driver.failures[1].code == expected.failures[1].code
    check_nothing_is_lost(driver.engine)


def test_prompts_that_are_in_the_cache_decode_at_once_with_the_right_token(runner: ModelRunner) -> None:
    prompts = [random_tokens(length, length) for length in (1, 15, 16, 17, 64, 100)]
    requests = [admission(i + 1, prompt, max_tokens=20) for i, prompt in enumerate(prompts)]
    again = [admission(i + 11, prompt, max_tokens=20) for i, prompt in enumerate(prompts)]
    expected = generate(make_engine(runner), *requests)
    driver, _ = delayed(runner)
    for batch in requests, again:
        driver.admit(*batch)
        driver.run()
        assert [driver.tokens[entry.request] for entry in batch] == expected
    assert [driver.cached[entry.request] for entry in again] == [len(prompt) - 1 for prompt in prompts]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_with_a_grammar_wait_for_their_last_token_and_the_others_do_not_notice(
    runner: ModelRunner, compiled: xgrammar.CompiledGrammar, temperature: float
) -> None:
    def requests() -> list[Admission]:
        constrained = [
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
        ]
        free = [admission(i, random_tokens(20, i), max_tokens=150, seed=i, temperature=i % 2) for i in range(6, 10)]
        return constrained + free

    expected = alone(runner, *requests(), eos=(EOS,))
    driver, pipeline = delayed(runner, eos=[EOS])
    driver.admit(*requests())
    driver.run()
    assert driver.tokens == expected.tokens and driver.finish == expected.finish
    assert pipeline.num_settled > 20 and pipeline.most_under_way == 3
    for i in range(1, 6):
        assert driver.finish[i] is FinishReason.STOP
        json.loads(byte_level().decode(driver.tokens[i][:-1], skip_special_tokens=False), strict=False)
    check_nothing_is_lost(driver.engine)


@pytest.mark.parametrize("in_fill", [True, False])
@pytest.mark.usefixtures("caplog")
def test_a_matcher_that_fails_ends_its_request_alone(runner: ModelRunner, in_fill: bool) -> None:
    expected = generate(make_engine(runner), admission(2, random_tokens(30, 2), max_tokens=20))
    driver, _ = delayed(runner)
    driver.admit(
        admission(1, random_tokens(30, 1), matcher=BrokenMatcher(in_fill=in_fill), grammar=GRAMMAR),
        admission(2, random_tokens(30, 2), max_tokens=20),
    )
    driver.run()
    assert (len(driver.tokens[1]), driver.finish[1]) == (2, FinishReason.ERROR)
    assert [driver.tokens[2]] == expected
    check_nothing_is_lost(driver.engine)


def test_logits_that_are_not_numbers_fail_their_row_alone_and_late(runner: ModelRunner) -> None:
    class Poisoned(RunnerProxy):
        def forward(self, batch: ForwardBatch) -> Tensor:
            logits = super().forward(batch)
            if len(logits) == 2 and int(batch.positions[batch.logit_rows[0]]) == 32:
                with torch.inference_mode():
                    logits[0] = torch.nan
            return logits

    requests = [admission(1, random_tokens(30, 1), max_tokens=20), admission(2, random_tokens(20, 2), max_tokens=20)]
    expected = alone(runner, *requests)
    driver, _ = delayed(Poisoned(runner))
    driver.admit(*requests)
    driver.run()
    assert (driver.tokens[1], driver.finish[1]) == (expected.tokens[1][:3], FinishReason.ERROR)
    assert "not finite" in driver.failures[1].message and driver.failures.keys() == {1}
    assert driver.tokens[2] == expected.tokens[2]
    check_nothing_is_lost(driver.engine)


def failing(runner: ModelRunner, fails: Callable[[ForwardBatch], bool]) -> ModelRunner:
    """A runner that raises once, for the first batch that is asked for."""

    class Failing(RunnerProxy):
        has_failed = False

        def forward(self, batch: ForwardBatch) -> Tensor:
            if not self.has_failed and fails(batch):
                self.has_failed = True
                raise torch.OutOfMemoryError("planted")
            return super().forward(batch)

    return Failing(runner)


def test_a_chunk_step_that_cannot_be_launched_ends_its_prefills_and_no_decode(
    runner: ModelRunner, caplog: pytest.LogCaptureFixture
) -> None:
    decodes = [admission(i, random_tokens(25, i), max_tokens=30, seed=i, temperature=i % 2) for i in range(1, 5)]
    late = admission(9, random_tokens(100, 9), max_tokens=20)
    expected = alone(runner, *decodes, late)
    driver, pipeline = delayed(failing(runner, lambda batch: batch.num_rows > 4))
    driver.admit(*decodes)
    for _ in range(5):
        driver.step()
    assert pipeline.most_under_way == 3
    driver.admit(late)
    driver.run()
    assert driver.failures.keys() == {9} and driver.failures[9].code == INTERNAL
    assert "planted" in driver.failures[9].message and "ends 1 requests" in caplog.text
    assert {i: driver.tokens[i] for i in range(1, 5)} == {i: expected.tokens[i] for i in range(1, 5)}
    driver.admit(admission(10, late.prompt, max_tokens=20))
    driver.run()
    assert driver.tokens[10] == expected.tokens[9]
    check_nothing_is_lost(driver.engine)


@pytest.mark.usefixtures("caplog")
def test_a_decode_step_that_cannot_be_launched_ends_its_rows_with_the_tokens_they_had(runner: ModelRunner) -> None:
    requests = [admission(i, random_tokens(25, i), max_tokens=30) for i in (1, 2)]
    expected = alone(runner, *requests)
    driver, _ = delayed(failing(runner, lambda batch: int(batch.positions[-1]) == 35))
    driver.admit(*requests)
    driver.run()
    assert set(driver.finish.values()) == {FinishReason.ERROR}
    assert all(driver.tokens[i] == expected.tokens[i][: len(driver.tokens[i])] for i in (1, 2))
    check_nothing_is_lost(driver.engine)


@pytest.mark.usefixtures("caplog")
def test_a_step_that_cannot_be_launched_lets_nothing_be_launched_before_all_earlier_results_are_taken(
    runner: ModelRunner,
) -> None:
    driver, pipeline = delayed(failing(runner, lambda batch: batch.num_rows > 4))
    driver.admit(*(admission(i, random_tokens(25, i), max_tokens=30) for i in range(1, 5)))
    for _ in range(5):
        driver.step()
    # Room for one more, so that the next call launches.
    assert len(pipeline._under_way) == 2
    driver.admit(admission(9, random_tokens(100, 9), max_tokens=20))
    driver.step()
    assert driver.failures.keys() == {9}
    assert not pipeline._under_way and not driver.engine.is_under_way
    driver.run()
    check_nothing_is_lost(driver.engine)


DEAD = "the GPU has failed: planted; the executor ends"


def dying(pipeline: DelayedPipeline, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """From now on the pipeline's device is dead, as `method` finds out."""

    def fail(*_: Any, **__: Any) -> None:
        raise DeviceFailedError(DEAD)

    monkeypatch.setattr(pipeline, method, fail)


@pytest.mark.parametrize("method", ["launch", "collect"])
@pytest.mark.parametrize("steps_before", [0, 1, 6])
def test_a_device_that_fails_ends_the_engine_and_no_request(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, method: str, steps_before: int
) -> None:
    driver, pipeline = delayed(runner)
    driver.admit(*(admission(i, random_tokens(25, i), max_tokens=30) for i in range(1, 5)))
    for _ in range(steps_before):
        driver.step()
    dying(pipeline, monkeypatch, method)
    driver.admit(admission(9, random_tokens(100, 9), max_tokens=20))
    with pytest.raises(DeviceFailedError, match=DEAD):
        for _ in range(3):
            driver.step()
    assert not driver.failures and not driver.finish


@pytest.mark.usefixtures("caplog")
def test_a_device_found_dead_after_a_launch_that_failed_ends_no_request_of_that_launch(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, pipeline = delayed(failing(runner, lambda batch: batch.num_rows > 4))
    driver.admit(*(admission(i, random_tokens(25, i), max_tokens=30) for i in range(1, 5)))
    for _ in range(5):
        driver.step()
    dying(pipeline, monkeypatch, "collect")
    driver.admit(admission(9, random_tokens(100, 9), max_tokens=20))
    with pytest.raises(DeviceFailedError, match=DEAD):
        driver.step()
    assert not driver.failures and not driver.finish


@pytest.mark.parametrize("method", ["launch", "collect"])
async def test_a_device_that_fails_ends_the_thread_of_the_engine_with_its_reason(
    runner: ModelRunner, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    engine, pipeline = make_delayed_engine(runner)
    dying(pipeline, monkeypatch, method)
    failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()
    reports: list[StepReport] = []
    loop = EngineLoop(
        build=lambda: engine, on_ready=lambda _: None, on_report=reports.append, on_failure=failure.set_result
    )
    loop.send(Orders(admissions=[admission(1, random_tokens(25, 1), max_tokens=30)]))
    loop.start()
    error = await asyncio.wait_for(failure, 30)
    assert isinstance(error, DeviceFailedError) and str(error) == DEAD
    assert not any(report.failures or report.tokens.requests for report in reports)
    await asyncio.to_thread(loop.stop)


def test_random_operations_end_with_the_tokens_of_an_engine_that_waits(runner: ModelRunner) -> None:
    small = load_runner(runner.config.model_dir, num_pages=26)
    operations = random_operations(1, 1500, num_rows=10)
    engine, pipeline = make_delayed_engine(small, max_rows=10, token_budget=64)
    driver = drive(engine, operations, by_bases=True)
    expected = drive(make_engine(small, max_rows=10, token_budget=64), operations)
    assert compare(operations, driver, expected, lambda: make_engine(small)) == []
    assert len(driver.retracted) > 5 and pipeline.most_under_way == 3
    assert not driver.failures and len(operations.cancelled) > 5
