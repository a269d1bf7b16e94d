"""The engine on a GPU gives the tokens of transformers and of the engine on the CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from bough.common.sampling import FinishReason
from tests.executor.test_engine_parity import DRAWN, NUM_TOKENS, reference
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.engines import (
    EngineDriver,
    admission,
    generate,
    load_runner,
    make_engine,
    make_gpu_engine,
    random_tokens,
)

pytestmark = pytest.mark.gpu

LENGTHS = (1, 2, 15, 16, 17, 33, 150, 311)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.mark.parametrize("name", TINY)
def test_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    prompts = [random_tokens(length, length) for length in LENGTHS]
    expected = reference(model_dir, prompts)
    engine = make_gpu_engine(model_dir, token_budget=45)
    together = [admission(i + 1, prompt, max_tokens=NUM_TOKENS) for i, prompt in enumerate(prompts)]
    assert generate(engine, *together) == expected
    cached = EngineDriver(engine)
    cached.admit(*together)
    cached.run()
    assert [cached.tokens[entry.request] for entry in together] == expected
    assert list(cached.cached.values()) == [length - 1 for length in LENGTHS]


# the compiler's own modules use what torch deprecates, and advise TF32 where a float32 product is compiled
@pytest.mark.filterwarnings("ignore:::torch")
@pytest.mark.parametrize("name", ["llama-linear", "qwen3"])
def test_greedy_tokens_of_compiled_layers_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    prompts = [random_tokens(length, length) for length in LENGTHS]
    expected = reference(model_dir, prompts)
    torch.compiler.reset()
    counters.clear()
    engine = make_gpu_engine(model_dir, max_rows=len(LENGTHS), token_budget=45, compile="default")
    assert counters["stats"]["unique_graphs"] == 3  # graphs are of 8 lines, of 16 and of 32 tokens
    together = [admission(i + 1, prompt, max_tokens=NUM_TOKENS) for i, prompt in enumerate(prompts)]
    assert generate(engine, *together) == expected
    assert counters["stats"]["unique_graphs"] == 3


SAMPLINGS: list[dict[str, Any]] = [
    DRAWN,
    {"temperature": 1.0, "max_tokens": 30},
    {"temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.2, "max_tokens": 30},
    {"temperature": 0.0, "presence_penalty": 0.8, "logit_bias": ((5, 4.0), (77, -100.0)), "max_tokens": 30},
    {"temperature": 1.0, "top_k": 5, "max_tokens": 30},
    {"temperature": 0.5, "top_p": 0.5, "top_logprobs": 3, "max_tokens": 20},
    {"temperature": 0.0, "top_logprobs": 0, "max_tokens": 20},
    {"temperature": 1.0, "min_tokens": 8, "stop_token_ids": tuple(range(3, 200)), "max_tokens": 30},
]


def test_sampled_tokens_and_logprobs_are_those_of_the_cpu(model_dir: Path) -> None:
    requests = [
        admission(i + 1, random_tokens(20 + i, i), seed=i, **sampling) for i, sampling in enumerate(SAMPLINGS * 4)
    ]
    drivers = [
        EngineDriver(make_engine(load_runner(model_dir), eos=[2])),
        EngineDriver(make_gpu_engine(model_dir, eos=[2])),
    ]
    for driver in drivers:
        driver.admit(*requests)
        driver.run()
    cpu, gpu = drivers
    assert gpu.tokens == cpu.tokens
    assert gpu.finish == cpu.finish and FinishReason.STOP in gpu.finish.values()
    assert gpu.logprobs.keys() == cpu.logprobs.keys()
    for request, entries in cpu.logprobs.items():
        for one, other in zip(gpu.logprobs[request], entries, strict=True):
            assert (one.rank, one.top_ids) == (other.rank, other.top_ids)
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert one.top_logprobs == pytest.approx(other.top_logprobs, abs=1e-4)


def test_requests_that_give_way_and_resume_get_the_same_tokens(model_dir: Path) -> None:
    # Each grows from 2 to 12 pages, more than admission keeps free.
    requests = [admission(i + 1, random_tokens(30, i), max_tokens=160, order=i) for i in range(6)]
    expected = generate(make_engine(load_runner(model_dir)), *requests)
    driver = EngineDriver(make_gpu_engine(model_dir, num_pages=24))
    driver.admit(*requests)
    driver.run()
    assert driver.retracted
    assert [driver.tokens[entry.request] for entry in requests] == expected
    assert driver.gauges.pages_used == 0


def test_cancelled_rows_are_used_again_by_others_with_the_right_tokens(model_dir: Path) -> None:
    first = [admission(i + 1, random_tokens(40, i), max_tokens=200) for i in range(40)]
    second = [admission(i + 100, random_tokens(25 + i, 100 + i), max_tokens=50) for i in range(40)]
    expected = generate(make_engine(load_runner(model_dir)), *second)
    driver = EngineDriver(make_gpu_engine(model_dir, num_pages=1000))
    driver.admit(*first)
    for _ in range(7):
        driver.step()
    driver.cancel(*(entry.request for entry in first))
    driver.admit(*second)
    driver.run()
    assert [driver.tokens[entry.request] for entry in second] == expected
