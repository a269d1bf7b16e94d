"""The engine over real tiny checkpoints: what is produced, where it ends, and what is given back."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bough.common.prefix_hash import token_bytes
from bough.common.sampling import FinishReason
from bough.executor.bases import Base
from bough.executor.batch import ForwardBatch
from bough.executor.engine import INTERNAL, INVALID
from bough.executor.orders import Orders
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import SAMPLINGS, check_nothing_is_lost
from tests.helpers.engines import EngineDriver, admission, generate, load_runner, make_engine, random_tokens


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def runner(model_dir: Path) -> ModelRunner:
    return load_runner(model_dir)


@pytest.fixture
def driver(runner: ModelRunner) -> EngineDriver:
    return EngineDriver(make_engine(runner))


def test_an_engine_without_requests_has_nothing_to_do(driver: EngineDriver) -> None:
    assert driver.step() is None
    assert driver.engine.is_idle


def test_max_tokens_ends_with_length_and_frees_rows_and_pages(driver: EngineDriver) -> None:
    driver.admit(admission(1, random_tokens(40, 1), max_tokens=5), admission(2, random_tokens(3, 2), max_tokens=1))
    driver.run()
    assert {request: len(tokens) for request, tokens in driver.tokens.items()} == {1: 5, 2: 1}
    assert set(driver.finish.values()) == {FinishReason.LENGTH}
    assert (driver.gauges.running, driver.gauges.waiting, driver.gauges.pages_used) == (0, 0, 0)


def test_the_context_length_ends_with_length(model_dir: Path) -> None:
    engine = make_engine(load_runner(model_dir, max_context=64))
    driver = EngineDriver(engine)
    driver.admit(admission(1, random_tokens(60, 1), max_tokens=100))
    driver.run()
    assert (len(driver.tokens[1]), driver.finish[1]) == (4, FinishReason.LENGTH)


def test_a_stop_token_ends_with_stop_and_is_the_last_token(runner: ModelRunner) -> None:
    [plain] = generate(make_engine(runner), admission(1, random_tokens(20, 1), max_tokens=12))
    stop = plain[6]
    cut = plain[: plain.index(stop) + 1]
    for eos, own in ([stop], ()), ([], (stop,)):
        driver = EngineDriver(make_engine(runner, eos=eos))
        driver.admit(admission(1, random_tokens(20, 1), max_tokens=12, stop_token_ids=own))
        driver.run()
        assert (driver.tokens[1], driver.finish[1]) == (cut, FinishReason.STOP)
    ignoring = generate(
        make_engine(runner, eos=[stop]), admission(1, random_tokens(20, 1), max_tokens=12, ignore_eos=True)
    )
    assert ignoring == [plain]


def test_started_tells_once_how_much_of_the_prompt_was_cached(driver: EngineDriver) -> None:
    prompt = random_tokens(40, 3)
    driver.admit(admission(1, prompt))
    driver.run()
    driver.admit(admission(2, [*prompt, 7, 8]), admission(3, prompt, namespace=b"other"))
    driver.run()
    assert driver.cached == {1: 0, 2: 40, 3: 0}


def test_gauges_count_the_prompt_tokens_that_were_computed(driver: EngineDriver) -> None:
    prompt = random_tokens(40, 3)
    driver.admit(admission(1, prompt, max_tokens=4))
    driver.run()
    assert driver.gauges.prefill_tokens == 40
    driver.admit(admission(2, [*prompt, *random_tokens(20, 4)], max_tokens=4))
    driver.run()
    assert driver.gauges.prefill_tokens == 40 + 20


def test_siblings_share_the_prompts_pages(driver: EngineDriver) -> None:
    prompt, n = random_tokens(325, 4), 8
    driver.admit(*(admission(i + 1, prompt, order=1, max_tokens=4, temperature=1.0, seed=i) for i in range(n)))
    driver.run()
    # 20 full pages of prompt, held once; each sibling has a page for the rest of it and its own tokens.
    assert 20 < driver.most_pages_used <= 20 + n
    assert len({tuple(tokens) for tokens in driver.tokens.values()}) > 1
    assert sorted(driver.cached.values()) == [0, *[324] * (n - 1)]


@pytest.mark.parametrize("steps_before", [1, 3])
def test_a_cancelled_request_frees_row_and_pages_at_once_and_is_not_heard_of_again(
    driver: EngineDriver, steps_before: int
) -> None:
    driver.admit(admission(1, random_tokens(600, 1)), admission(2, random_tokens(30, 2), max_tokens=100))
    for _ in range(steps_before):
        driver.step()
    driver.cancel(1, 999)
    before = len(driver.tokens.get(1, []))
    driver.step()
    assert (driver.gauges.running, driver.gauges.pages_used) == (1, 2)
    driver.run()
    assert 1 not in driver.finish and len(driver.tokens.get(1, [])) == before
    assert len(driver.tokens[2]) == 100


def test_cancelling_the_last_request_reports_the_freed_pages_without_a_step(driver: EngineDriver) -> None:
    driver.admit(admission(1, random_tokens(30, 1)))
    driver.step()
    assert driver.gauges.pages_used > 0
    driver.cancel(1)
    report = driver.step()
    assert report is not None and report.step == 0
    assert (driver.gauges.running, driver.gauges.pages_used) == (0, 0)
    assert driver.step() is None


def test_steps_that_only_prefill_are_reported(driver: EngineDriver) -> None:
    driver.admit(admission(1, random_tokens(900, 1)))
    report = driver.step()
    assert report is not None and report.step == 1 and not report.tokens.requests
    assert report.gauges is not None and report.gauges.running == 1
    assert len(report.cache_changes) == 512 // 16


def test_a_request_that_is_already_here_is_not_admitted_again(driver: EngineDriver) -> None:
    prompt = random_tokens(30, 1)
    driver.admit(admission(1, prompt))
    driver.step()
    driver.admit(admission(1, prompt))
    driver.run()
    assert len(driver.tokens[1]) == 8


def test_a_cancel_and_an_admission_of_the_same_request_begin_it_anew(driver: EngineDriver) -> None:
    prompt = random_tokens(30, 1)
    driver.admit(admission(1, prompt))
    for _ in range(3):
        driver.step()
    tokens, driver.tokens, driver.cached = driver.tokens[1], {}, {}
    driver.apply(Orders(cancels=[1], admissions=[admission(1, prompt)]))
    driver.run()
    assert driver.tokens[1][:3] == tokens and len(driver.tokens[1]) == 8


def test_reports_name_the_orders_that_were_applied(driver: EngineDriver) -> None:
    driver.admit(admission(1, random_tokens(30, 1)))
    first = driver.step()
    driver.admit(admission(2, random_tokens(30, 2)))
    driver.cancel(1)
    second = driver.step()
    assert first is not None and second is not None
    assert (first.applied, second.applied) == (1, 3)


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (admission(9, []), "0 tokens"),
        (admission(9, random_tokens(1024, 1)), "1024 tokens; 1 to 1023"),
        (admission(9, [5, 512]), "token id 512 is not below the vocabulary size 512"),
    ],
)
def test_a_bad_prompt_fails_its_request_alone(driver: EngineDriver, bad: Any, says: str) -> None:
    driver.admit(bad, admission(1, random_tokens(30, 1)))
    driver.run()
    assert driver.failures[9].code == INVALID and says in driver.failures[9].message
    assert driver.finish == {9: FinishReason.ERROR, 1: FinishReason.LENGTH}


def test_a_prompt_that_the_whole_pool_cannot_hold_fails_as_invalid(model_dir: Path) -> None:
    driver = EngineDriver(make_engine(load_runner(model_dir, num_pages=8)))
    driver.admit(admission(1, random_tokens(200, 1)), admission(2, random_tokens(20, 2)))
    driver.run()
    assert driver.failures[1].code == INVALID and "8" in driver.failures[1].message
    assert driver.finish[2] is FinishReason.LENGTH


def test_sampling_parameters_that_cannot_be_set_fail_their_row_alone(driver: EngineDriver) -> None:
    expected = generate(driver.engine, admission(1, random_tokens(30, 1)))
    driver = EngineDriver(driver.engine)
    driver.admit(admission(9, random_tokens(20, 9), logit_bias=((600, 1.0),)), admission(1, random_tokens(30, 1)))
    driver.run()
    assert driver.failures[9].code == INTERNAL and "token id 600" in driver.failures[9].message
    assert (driver.tokens[9], driver.finish[9]) == ([], FinishReason.ERROR)
    assert [driver.tokens[1]] == expected


def test_logits_that_are_not_numbers_fail_their_row_alone(runner: ModelRunner) -> None:
    class Poisoned(RunnerProxy):
        def forward(self, batch: ForwardBatch) -> Tensor:
            logits = super().forward(batch)
            if len(logits) == 2 and int(batch.positions[batch.logit_rows[0]]) == 32:
                with torch.inference_mode():
                    logits[0] = torch.nan
            return logits

    driver = EngineDriver(make_engine(Poisoned(runner)))
    driver.admit(admission(1, random_tokens(30, 1)), admission(2, random_tokens(20, 2)))
    driver.run()
    assert (len(driver.tokens[1]), driver.finish[1]) == (3, FinishReason.ERROR)
    assert "not finite" in driver.failures[1].message
    assert (len(driver.tokens[2]), driver.finish[2]) == (8, FinishReason.LENGTH)


def test_a_step_that_raises_ends_its_rows_and_the_engine_goes_on(
    runner: ModelRunner, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing(RunnerProxy):
        steps = 0

        def forward(self, batch: ForwardBatch) -> Tensor:
            self.steps += 1
            if self.steps == 3:
                raise IndexError("planted")
            return super().forward(batch)

    expected = generate(make_engine(runner), admission(2, random_tokens(20, 2)))
    driver = EngineDriver(make_engine(Failing(runner)))
    driver.admit(admission(1, random_tokens(30, 1)))
    for _ in range(3):
        driver.step()
    assert driver.finish == {1: FinishReason.ERROR}
    assert "planted" in driver.failures[1].message and "a step failed" in caplog.text
    assert driver.gauges.pages_used == 0
    driver.admit(admission(2, random_tokens(20, 2)))
    driver.run()
    assert [driver.tokens[2]] == expected


def test_a_request_goes_on_from_the_tokens_it_produced_elsewhere(runner: ModelRunner) -> None:
    prompt = random_tokens(30, 1)
    params: dict[str, Any] = {"temperature": 1.0, "seed": 5, "frequency_penalty": 0.5, "max_tokens": 20}
    [whole] = generate(make_engine(runner), admission(1, prompt, **params))
    [rest] = generate(make_engine(runner), admission(1, prompt, produced=whole[:7], **params))
    assert whole[:7] + rest == whole


def test_a_request_whose_last_token_was_already_produced_ends_without_another_one(runner: ModelRunner) -> None:
    driver = EngineDriver(make_engine(runner, eos=[7]))
    driver.admit(
        admission(1, [5, 6], produced=[9] * 8),
        admission(2, [5, 6], produced=[9, 7]),
        admission(3, [5, 6], produced=[7, 9]),
    )
    driver.run()
    assert driver.finish == {1: FinishReason.LENGTH, 2: FinishReason.STOP, 3: driver.finish[3]}
    assert (driver.tokens[1], driver.tokens[2]) == ([], []) and driver.tokens[3]


def test_requests_named_for_retraction_give_way_first_and_a_new_order_replaces_the_old(model_dir: Path) -> None:
    tiny = load_runner(model_dir, num_pages=22)

    def retracted(*orders: Sequence[int]) -> list[int]:
        driver = EngineDriver(make_engine(tiny))
        driver.admit(*(admission(i, random_tokens(40, i), max_tokens=120) for i in (1, 2, 3)))
        for _ in range(2):
            driver.step()
        for order in orders:
            driver.apply(Orders(retract_order=order))
        return driver.run().retracted

    assert retracted()[0] == 3
    assert retracted([1, 2])[0] == 1
    assert retracted([1, 2], [])[0] == 3


def test_a_smaller_token_budget_makes_smaller_steps_until_it_is_lifted(driver: EngineDriver) -> None:
    driver.apply(Orders(token_budget=64))
    driver.admit(admission(1, random_tokens(900, 1)))
    report = driver.step()
    assert report is not None and len(report.cache_changes) == 64 // 16
    driver.apply(Orders(token_budget=0))
    report = driver.step()
    assert report is not None and len(report.cache_changes) == 512 // 16


def test_cache_changes_add_up_to_what_the_cache_holds(model_dir: Path) -> None:
    driver = EngineDriver(make_engine(load_runner(model_dir, num_pages=24)))
    for i in range(1, 12):
        driver.admit(admission(i, random_tokens(70, i % 5), max_tokens=20))
        if i % 3 == 0:
            driver.run()
    driver.run()
    # What the cache holds besides full pages are the partly filled ones at the ends.
    assert 0 < len(driver.pages) <= driver.gauges.pages_cached <= len(driver.pages) + 11
    prompt = random_tokens(70, 1)
    driver.admit(admission(50, prompt, max_tokens=1))
    driver.run()
    assert driver.cached[50] >= 64


class RunnerProxy(ModelRunner):
    """The same loaded model behind overridable methods."""

    def __init__(self, runner: ModelRunner) -> None:
        self.__dict__.update(runner.__dict__)


@pytest.mark.parametrize("num_top", [0, 3])
def test_logprobs_are_those_of_transformers(model_dir: Path, runner: ModelRunner, num_top: int) -> None:
    driver = EngineDriver(make_engine(runner))
    prompt = random_tokens(25, 1)
    driver.admit(
        admission(1, prompt, temperature=0.7, seed=3, top_logprobs=num_top, presence_penalty=1.0),
        admission(2, random_tokens(9, 2)),
    )
    driver.run()
    loaded: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    tokens = driver.tokens[1]
    with torch.inference_mode():
        logits = loaded(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    reference = torch.log_softmax(logits, -1)
    assert len(driver.logprobs[1]) == len(tokens) and 2 not in driver.logprobs
    for entry, token, line in zip(driver.logprobs[1], tokens, reference, strict=True):
        assert entry.logprob == pytest.approx(float(line[token]), abs=1e-4)
        assert entry.rank == int((line > line[token]).sum()) + 1
        assert entry.top_ids == tuple(line.topk(num_top).indices.tolist())
        assert entry.top_logprobs == pytest.approx(line.topk(num_top).values.tolist(), abs=1e-4)


def test_an_engine_of_many_short_requests_reports_each_end_once(runner: ModelRunner) -> None:
    driver = EngineDriver(make_engine(runner, max_rows=8))
    driver.admit(*(admission(i, random_tokens(1 + i % 40, i), max_tokens=1 + i % 9) for i in range(1, 101)))
    driver.run()
    assert [len(driver.tokens[i]) for i in range(1, 101)] == [1 + i % 9 for i in range(1, 101)]
    assert len(driver.finish) == 100


def test_prompts_by_a_base_say_what_whole_prompts_say(runner: ModelRunner) -> None:
    tokens = random_tokens(77, 1)
    base = Base(token_bytes(tokens[:-1]), b"")
    endings = [random_tokens(number, 10 + number) for number in range(len(SAMPLINGS))]
    options = [{**sampling, "seed": number, "max_tokens": 20} for number, sampling in enumerate(SAMPLINGS)]
    plain = [admission(n, tokens + ending, **options[n]) for n, ending in enumerate(endings)]
    by_base = [admission(n, tokens[-1:] + ending, base=base, **options[n]) for n, ending in enumerate(endings)]
    expected = generate(make_engine(runner), *plain)
    engine = make_engine(runner)
    assert [generate(engine, *by_base), generate(engine, *reversed(by_base))[::-1]] == [expected] * 2
    moved = [
        admission(n, tokens[-1:] + endings[n], base=base, produced=expected[n][:7], **options[n])
        for n in range(len(endings))
    ]
    assert generate(engine, *moved) == [output[7:] for output in expected]
    engine.apply(Orders(released_bases=[base]))
    check_nothing_is_lost(engine)


def test_a_base_counts_for_the_length_and_the_ids_of_a_prompt(model_dir: Path) -> None:
    driver = EngineDriver(make_engine(load_runner(model_dir, max_context=64)))
    long, strange = Base(token_bytes(random_tokens(63, 1)), b""), Base(token_bytes([5, 512]), b"")
    driver.admit(admission(1, [7], base=long), admission(2, [7], base=strange), admission(3, [], base=strange))
    driver.run()
    reasons = [driver.failures[request].message for request in (1, 2, 3)]
    assert "64 tokens; 1 to 63 are accepted" in reasons[0]
    assert "token id 512 is not below the vocabulary size 512" in reasons[1]
    assert {failure.code for failure in driver.failures.values()} == {INVALID}
