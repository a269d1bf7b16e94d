"""Logits and greedy tokens equal those of transformers on the same checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from bough.executor.runner import ModelRunner, RunnerConfig
from tests.helpers.batches import Driver
from tests.helpers.checkpoints import TINY, write_checkpoint

TOLERANCE = 1e-4
LENGTHS = (1, 2, 15, 16, 17, 63, 64, 65, 100, 257, 700)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A model served by us and the same by transformers."""

    runner: ModelRunner
    oracle: Any

    def expected(self, tokens: list[int]) -> Tensor:
        """Transformers' logits [tokens, vocab]."""
        with torch.inference_mode():
            logits: Tensor = self.oracle(torch.tensor([tokens])).logits[0]
        return logits


@pytest.fixture(scope="module", params=TINY)
def model_dir(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(request.param, tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module", params=["torch", "native"])
def pair(request: pytest.FixtureRequest, model_dir: Path) -> Iterator[Pair]:
    backend: Literal["torch", "native"] = request.param
    runner = ModelRunner.load(RunnerConfig(model_dir=model_dir, num_pages=256, backend=backend, max_rows=8))
    oracle: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager")
    yield Pair(runner=runner, oracle=oracle.eval())


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return torch.randint(3, 512, (length,), generator=generator).tolist()


def difference(actual: Tensor, expected: Tensor) -> float:
    return float((actual - expected).abs().max())


@pytest.mark.parametrize("length", LENGTHS)
def test_logits_of_a_whole_prompt_match(pair: Pair, length: int) -> None:
    tokens = prompt(length)
    driver = Driver(pair.runner)
    assert difference(driver.prefill(driver.row(tokens)), pair.expected(tokens)) <= TOLERANCE


@pytest.mark.parametrize("chunk", [1, 7, 16, 33, 250])
def test_logits_of_a_prompt_in_chunks_match(pair: Pair, chunk: int) -> None:
    tokens = prompt(100 if chunk == 1 else 700)
    driver = Driver(pair.runner)
    assert difference(driver.prefill(driver.row(tokens), chunk), pair.expected(tokens)) <= TOLERANCE


@pytest.mark.parametrize("num_shared", [16, 64, 320])
def test_logits_after_a_cached_prefix_match(pair: Pair, num_shared: int) -> None:
    driver = Driver(pair.runner)
    first = driver.row(prompt(400))
    driver.prefill(first)
    tokens = first.tokens[:num_shared] + prompt(77, seed=1)
    second = driver.row(tokens, shared_with=first, num_shared=num_shared)
    assert difference(driver.prefill(second), pair.expected(tokens)[num_shared:]) <= TOLERANCE


def test_logits_in_a_mixed_batch_match(pair: Pair) -> None:
    driver = Driver(pair.runner)
    rows = [driver.row(prompt(length, seed=2)) for length in (1, 40, 130, 300, 65, 512)]
    for row in rows[1:3]:
        driver.step([(row, len(row.tokens) - 1)])
    driver.step([(rows[3], 111), (rows[4], 16)])
    work = [(row, len(row.tokens) - row.num_computed) for row in rows]
    logits = driver.step(work)
    for row, actual in zip(rows, logits, strict=True):
        assert difference(actual, pair.expected(row.tokens)[-1]) <= TOLERANCE


def test_greedy_tokens_match(pair: Pair) -> None:
    tokens = prompt(50, seed=3)
    driver = Driver(pair.runner)
    actual = driver.generate(driver.row(tokens), 64)
    generated = pair.oracle.generate(
        torch.tensor([tokens]),
        attention_mask=torch.ones(1, len(tokens), dtype=torch.int64),
        max_new_tokens=64,
        min_new_tokens=64,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=None,
    )
    assert actual == generated[0, len(tokens) :].tolist()
