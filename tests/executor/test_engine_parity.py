"""What the engine produces is what transformers says, whatever else runs, and whatever happened to the request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import TINY, write_checkpoint
from tests.helpers.engines import EngineDriver, admission, generate, load_runner, make_engine, random_tokens

NUM_TOKENS = 64
LENGTHS = (1, 2, 15, 16, 17, 33, 150, 311)

DRAWN: dict[str, Any] = {"temperature": 0.9, "top_p": 0.95, "top_k": 80, "frequency_penalty": 0.3, "max_tokens": 40}


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> ModelRunner:
    return load_runner(write_checkpoint("qwen3", tmp_path_factory.mktemp("model")))


def reference(model_dir: Path, prompts: list[list[int]]) -> list[list[int]]:
    """Greedy continuations by transformers, one prompt at a time."""
    model: Any = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    outputs = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        generated = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=NUM_TOKENS,
            min_new_tokens=NUM_TOKENS,
            pad_token_id=0,
            eos_token_id=None,
        )
        outputs.append(generated[0, len(prompt) :].tolist())
    return outputs


@pytest.mark.parametrize("name", TINY)
def test_greedy_tokens_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    prompts = [random_tokens(length, length) for length in LENGTHS]
    expected = reference(model_dir, prompts)
    # 45 tokens a step: prompts of all lengths are cut, and mixed with the decodes of those that are through.
    engine = make_engine(load_runner(model_dir), token_budget=45)
    together = [admission(i + 1, prompt, max_tokens=NUM_TOKENS) for i, prompt in enumerate(prompts)]
    assert generate(engine, *together) == expected
    cached = EngineDriver(engine)
    cached.admit(*together)
    cached.run()
    assert [cached.tokens[entry.request] for entry in together] == expected
    assert list(cached.cached.values()) == [length - 1 for length in LENGTHS]
    alone = generate(make_engine(load_runner(model_dir)), admission(1, prompts[-1], max_tokens=NUM_TOKENS))
    assert alone == expected[-1:]


def test_a_seeded_request_gets_the_same_tokens_alone_and_among_31_others(runner: ModelRunner) -> None:
    prompt = random_tokens(45, 1)
    [alone] = generate(make_engine(runner), admission(1, prompt, seed=11, **DRAWN))
    others = [
        admission(i, random_tokens(3 + 5 * i, i), seed=i, temperature=i % 3 / 2, max_tokens=10 + 2 * i)
        for i in range(2, 33)
    ]
    together = generate(make_engine(runner), *others, admission(1, prompt, seed=11, **DRAWN))
    assert together[-1] == alone
    assert generate(make_engine(runner), admission(1, prompt, seed=12, **DRAWN)) != [alone]


def test_a_seeded_request_gets_the_same_tokens_after_a_cache_hit(runner: ModelRunner) -> None:
    engine, prompt = make_engine(runner), random_tokens(100, 1)
    first = EngineDriver(engine)
    first.admit(admission(1, prompt, seed=11, **DRAWN))
    first.run()
    second = EngineDriver(engine)
    second.admit(admission(2, prompt, seed=11, **DRAWN))
    second.run()
    assert (first.cached, second.cached) == ({1: 0}, {2: 99})
    assert second.tokens[2] == first.tokens[1]


def test_seeded_requests_get_the_same_tokens_after_retractions(runner: ModelRunner) -> None:
    # Each grows from 3 to 13 pages; 22 pages hold the beginning of three and the end of one.
    params = {**DRAWN, "max_tokens": 160}
    requests = [admission(i, random_tokens(44, i), seed=i, **params) for i in (1, 2, 3)]
    expected = [generate(make_engine(runner), request)[0] for request in requests]
    tight = EngineDriver(make_engine(load_runner(runner.config.model_dir, num_pages=22)))
    tight.admit(*requests)
    tight.run()
    assert tight.retracted
    assert [tight.tokens[i] for i in (1, 2, 3)] == expected


def test_the_tokens_do_not_depend_on_the_token_budget(runner: ModelRunner) -> None:
    requests = [admission(i, random_tokens(60 * i, i), seed=i, **DRAWN) for i in (1, 2, 3, 4)]
    outputs = [generate(make_engine(runner, token_budget=budget), *requests) for budget in (41, 77, 512)]
    assert outputs[0] == outputs[1] == outputs[2]
