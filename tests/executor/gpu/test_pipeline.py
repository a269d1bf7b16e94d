"""The executor's GPU side on an interpreted GPU: its tokens are those of the engine on the CPU.

It is one that is as fast as can be, or one that works only while the host waits for it: for no longer than it must, or
until nothing is left to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import xgrammar

from bough.common.sampling import FinishReason, Grammar, GrammarKind
from bough.common.vocab import read_vocabulary, xgrammar_tokenizer_info
from bough.executor.engine import INTERNAL, Engine
from bough.executor.gpu import shared_lines
from bough.executor.gpu.pipeline import RUN_AHEAD
from bough.executor.gpu.steps import GpuSteps
from bough.executor.grammars import GrammarMatcher
from bough.executor.orders import Admission
from bough.executor.runner import ModelRunner
from tests.executor.test_engine_grammar import BrokenMatcher
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import check_nothing_is_lost
from tests.helpers.engines import EngineDriver, admission, load_runner, make_engine, random_tokens
from tests.helpers.interpreted_gpu import InterpretedGpu, interpreted_gpu, make_interpreted_engine
from tests.helpers.tokenizer_files import byte_level

EOS = 2
BAD = 511
"""Token whose embedding is not a number for a while."""
SCHEMA = json.dumps({"enum": ["tree", "leaf"]})
GRAMMAR = Grammar(key=b"k" * 32, kind=GrammarKind.JSON_SCHEMA, text=SCHEMA)
SAMPLINGS: list[dict[str, Any]] = [
    {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "frequency_penalty": 0.3},
    {"temperature": 0.8, "min_p": 0.05, "presence_penalty": 0.7, "repetition_penalty": 1.2},
    {"repetition_penalty": 1.4, "logit_bias": ((5, 4.0), (77, -100.0)), "top_logprobs": 3},
    {"temperature": 1.0, "top_logprobs": 0},
    {"temperature": 1.0, "min_tokens": 5, "stop_token_ids": tuple(range(3, 250))},
    {},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not tied: what is wrong with the embedding must not be in the head too."""
    return write_checkpoint("qwen3-yarn", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cpu(model_dir: Path) -> ModelRunner:
    return load_runner(model_dir, num_pages=40)


@pytest.fixture(scope="module")
def device() -> Iterator[InterpretedGpu]:
    """On which decodes that have a page in common attend to it together."""
    with interpreted_gpu() as gpu, pytest.MonkeyPatch.context() as patches:
        patches.setattr(shared_lines, "LEAST_PAGES", 1)
        patches.setattr(shared_lines, "LEAST_SAVED_BYTES", 1)
        yield gpu


@pytest.fixture(scope="module")
def engine(model_dir: Path, device: InterpretedGpu) -> Engine:
    return make_interpreted_engine(model_dir, eos=[EOS])


@pytest.fixture(params=["at once", "when waited for", "in bursts"])
def gpu(device: InterpretedGpu, request: pytest.FixtureRequest) -> Iterator[InterpretedGpu]:
    device.lags = request.param != "at once"
    device.bursts = request.param == "in bursts"
    yield device
    device.lags = device.bursts = False


@pytest.fixture
def slow_gpu(device: InterpretedGpu) -> Iterator[InterpretedGpu]:
    device.lags = True
    yield device
    device.lags = False


@pytest.fixture
def bursting_gpu(slow_gpu: InterpretedGpu) -> Iterator[InterpretedGpu]:
    slow_gpu.bursts = True
    yield slow_gpu
    slow_gpu.bursts = False


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> xgrammar.CompiledGrammar:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    byte_level().save(str(path))
    info = xgrammar_tokenizer_info(read_vocabulary(path), vocab_size=512, stop_token_ids=[EOS])
    return xgrammar.GrammarCompiler(info).compile_json_schema(SCHEMA, any_whitespace=False)


def on_cpu(cpu: ModelRunner, *requests: Admission) -> EngineDriver:
    driver = EngineDriver(make_engine(cpu, eos=[EOS]))
    driver.admit(*requests)
    return driver.run()


def run(engine: Engine, *requests: Admission) -> EngineDriver:
    driver = EngineDriver(engine)
    driver.admit(*requests)
    driver.run()
    check_nothing_is_lost(engine)
    return driver


def most_under_way(driver: EngineDriver) -> int:
    """Run to the end; the steps that were under way when a step had returned."""
    most = 0
    while driver.step() is not None or driver.engine.is_under_way:
        most = max(most, len(driver.engine._flights))
    return most


def test_greedy_tokens_of_chunked_prompts_beside_decodes_are_those_of_the_cpu(
    cpu: ModelRunner, engine: Engine, gpu: InterpretedGpu
) -> None:
    lengths = (1, 17, 16, 61)
    requests = [
        admission(i, random_tokens(length, 10 * i + gpu.lags + gpu.bursts), max_tokens=7)
        for i, length in enumerate(lengths)
    ]
    expected = on_cpu(cpu, *requests).tokens
    driver, num_replays = EngineDriver(engine), gpu.num_replays
    driver.admit(*requests)
    assert most_under_way(driver) == (RUN_AHEAD - 1 if gpu.lags else 0)  # the oldest of them is waited for
    assert driver.tokens == expected and gpu.num_replays > num_replays
    check_nothing_is_lost(engine)
    # From the cache they begin as decodes, in a copy of the last page where that was full.
    again = run(engine, *requests)
    assert again.tokens == expected
    assert again.cached == {i: length - 1 for i, length in enumerate(lengths)}


@pytest.mark.usefixtures("bursting_gpu")
def test_sampled_tokens_and_logprobs_are_those_of_the_cpu(cpu: ModelRunner, engine: Engine) -> None:
    requests = [
        admission(i, random_tokens(5 + i, 100 + i), seed=i, max_tokens=8, **sampling)
        for i, sampling in enumerate(SAMPLINGS)
    ]
    expected = on_cpu(cpu, *requests)
    driver = run(engine, *requests)
    assert driver.tokens == expected.tokens
    assert driver.finish == expected.finish and FinishReason.STOP in driver.finish.values()
    assert driver.logprobs.keys() == expected.logprobs.keys() == {2, 3}
    for request, entries in expected.logprobs.items():
        for one, other in zip(driver.logprobs[request], entries, strict=True):
            assert (one.rank, one.top_ids) == (other.rank, other.top_ids)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert one.top_logprobs == pytest.approx(other.top_logprobs, abs=1e-4)


def test_a_row_with_a_grammar_stays_within_it_and_those_beside_it_do_not_notice(
    cpu: ModelRunner, engine: Engine, gpu: InterpretedGpu, compiled: xgrammar.CompiledGrammar
) -> None:
    def requests() -> list[Admission]:
        constrained = [
            admission(
                i,
                random_tokens(9 * i, 200 + 10 * i + gpu.lags + gpu.bursts),
                matcher=GrammarMatcher(compiled),
                grammar=GRAMMAR,
                seed=i,
                temperature=temperature,
                max_tokens=20,
            )
            for i, temperature in ((1, 0.0), (2, 1.0))
        ]
        return [
            *constrained,
            admission(3, random_tokens(30, 230 + gpu.lags + gpu.bursts), max_tokens=9, seed=3, temperature=1.0),
        ]

    expected = on_cpu(cpu, *requests())
    driver = run(engine, *requests())
    assert driver.tokens == expected.tokens and driver.finish == expected.finish
    for i in (1, 2):
        assert driver.finish[i] is FinishReason.STOP
        assert json.loads(byte_level().decode(driver.tokens[i][:-1], skip_special_tokens=False)) in ("tree", "leaf")


@pytest.mark.usefixtures("caplog", "slow_gpu")
def test_a_matcher_that_fails_ends_its_request_alone(cpu: ModelRunner, engine: Engine) -> None:
    beside = admission(2, random_tokens(30, 300), max_tokens=9)
    broken = admission(1, random_tokens(12, 301), matcher=BrokenMatcher(in_fill=True), grammar=GRAMMAR)
    driver = run(engine, broken, beside)
    assert (len(driver.tokens[1]), driver.finish[1]) == (2, FinishReason.ERROR)
    assert driver.failures.keys() == {1} and "planted" in driver.failures[1].message
    assert driver.tokens[2] == on_cpu(cpu, beside).tokens[2]


@pytest.mark.usefixtures("slow_gpu")
def test_rows_of_cancelled_requests_serve_others_while_their_last_tokens_are_under_way(
    cpu: ModelRunner, engine: Engine
) -> None:
    first = [admission(i, random_tokens(5, 400 + i), max_tokens=50, **SAMPLINGS[i]) for i in range(4)]
    second = [admission(10 + i, random_tokens(9, 410 + i), max_tokens=5) for i in range(4)]
    driver = EngineDriver(engine)
    driver.admit(*first)
    for _ in range(4):
        driver.step()
    assert engine.is_under_way
    before = {request: list(tokens) for request, tokens in driver.tokens.items()}
    driver.cancel(*(entry.request for entry in first))
    driver.admit(*second)
    driver.run()
    assert {**driver.tokens, **before} == driver.tokens
    assert {entry.request: driver.tokens[entry.request] for entry in second} == on_cpu(cpu, *second).tokens
    check_nothing_is_lost(engine)


@pytest.mark.usefixtures("slow_gpu")
def test_no_token_after_a_stop_that_is_seen_late_is_reported_or_found_by_others(
    cpu: ModelRunner, engine: Engine
) -> None:
    prompt = random_tokens(13, 500)
    plain = on_cpu(cpu, admission(1, prompt, max_tokens=8)).tokens[1]
    stop = plain[4]
    cut = plain[: plain.index(stop) + 1]
    driver = run(engine, admission(1, prompt, max_tokens=40, stop_token_ids=(stop,)))
    assert (driver.tokens[1], driver.finish[1]) == (cut, FinishReason.STOP)
    follow_up = admission(2, [*prompt, *cut, 200, 201], max_tokens=5)
    assert run(engine, follow_up).tokens == on_cpu(cpu, follow_up).tokens


@pytest.mark.usefixtures("slow_gpu")
def test_decodes_that_share_pages_attend_to_them_together(
    cpu: ModelRunner, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = GpuSteps.decode
    found: list[tuple[int, bool]] = []

    def noted(self: GpuSteps, num_lines: int, *args: Any, shared: bool = False) -> None:
        found.append((num_lines, shared))
        decode(self, num_lines, *args, shared=shared)

    monkeypatch.setattr(GpuSteps, "decode", noted)
    stem, other = random_tokens(40, 600), random_tokens(20, 601)
    prompts = [other, [*stem, 7, 8], [*stem, 9], [*stem[:16], 10]]
    first = [admission(8, stem, max_tokens=1), admission(9, other, max_tokens=1)]
    requests = [admission(i, prompt, max_tokens=6) for i, prompt in enumerate(prompts)]
    run(engine, *first)
    assert run(engine, *requests).tokens == on_cpu(cpu, *requests).tokens
    assert (4, True) in found


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0, "frequency_penalty": 0.7, "repetition_penalty": 1.2}])
def test_requests_that_give_way_and_resume_get_the_same_tokens(
    cpu: ModelRunner, model_dir: Path, device: InterpretedGpu, sampling: dict[str, Any]
) -> None:
    requests = [admission(i, random_tokens(10, 700 + i), max_tokens=8, seed=i, **sampling) for i in range(1, 4)]
    engine = make_interpreted_engine(model_dir, num_pages=3, max_rows=3, token_budget=16)
    engine._composer.limits = replace(engine._composer.limits, headroom_pages=0)  # each grows from 1 page to 2
    device.lags = True
    try:
        driver = run(engine, *requests)
    finally:
        device.lags = False
    assert len(driver.retracted) > 1
    assert driver.tokens == on_cpu(cpu, *requests).tokens


@contextmanager
def poisoned(engine: Engine) -> Iterator[None]:
    """While this lasts, what the GPU computes from `BAD` is not a number."""
    embedding = engine._model._model._embedding  # type: ignore[attr-defined]  # of the runner behind the protocol
    with torch.inference_mode():
        kept = embedding[BAD].clone()
        embedding[BAD] = torch.nan
        yield
        embedding[BAD] = kept


@pytest.mark.usefixtures("slow_gpu")
def test_logits_that_are_not_finite_end_their_requests_alone_and_leave_nothing_to_others(
    cpu: ModelRunner, engine: Engine
) -> None:
    def request(number: int, length: int, *, is_bad: bool = False) -> Admission:
        prompt = random_tokens(length, 800 + number, BAD)
        if is_bad:
            prompt[3] = BAD
        sampling: dict[str, Any] = {} if number > 2 else {"temperature": 1.0, "seed": number, "presence_penalty": 0.5}
        return admission(number, prompt, max_tokens=6, logit_bias=((BAD, -100.0),), **sampling)

    requests = [request(1, 10), request(2, 30, is_bad=True), request(3, 20), request(4, 8, is_bad=True)]
    expected = on_cpu(cpu, *requests).tokens
    with poisoned(engine):
        driver = run(engine, *requests)
    assert driver.failures.keys() == {2, 4}
    assert all("not finite" in failure.message and failure.code == INTERNAL for failure in driver.failures.values())
    assert (driver.tokens[1], driver.tokens[3]) == (expected[1], expected[3])
    again = run(engine, *requests)
    assert again.tokens == expected
    assert again.cached[2] == again.cached[4] == 0


@pytest.mark.usefixtures("slow_gpu")
def test_a_row_that_cannot_be_set_up_ends_alone(cpu: ModelRunner, engine: Engine) -> None:
    prompt = random_tokens(20, 900)
    good = admission(1, prompt, max_tokens=6)
    expected = on_cpu(cpu, good).tokens[1]
    assert run(engine, good).tokens[1] == expected
    # Its prompt is in the cache, so that it begins as a decode.
    driver = run(engine, good, admission(2, prompt, logit_bias=((600, 1.0),)))
    assert driver.failures.keys() == {2} and "token id 600" in driver.failures[2].message
    assert driver.tokens[1] == expected


@pytest.mark.usefixtures("slow_gpu")
def test_a_step_that_cannot_be_launched_ends_its_prefills_and_no_decode(
    cpu: ModelRunner, engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    decodes = [admission(i, random_tokens(10 + i, 1000 + i), max_tokens=12) for i in (1, 2)]
    late = admission(3, random_tokens(40, 1003), max_tokens=5)
    expected = on_cpu(cpu, *decodes, late).tokens
    driver = EngineDriver(engine)
    driver.admit(*decodes)
    for _ in range(4):
        driver.step()
    forward = GpuSteps.forward_mixed
    failed: list[bool] = []

    def fails_once(self: GpuSteps, *args: Any, **options: Any) -> None:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("planted")
        forward(self, *args, **options)

    monkeypatch.setattr(GpuSteps, "forward_mixed", fails_once)
    driver.admit(late)
    driver.run()
    assert driver.failures.keys() == {3} and "planted" in driver.failures[3].message
    assert "a step failed" in caplog.text
    assert (driver.tokens[1], driver.tokens[2]) == (expected[1], expected[2])
    assert run(engine, late).tokens[3] == expected[3]
