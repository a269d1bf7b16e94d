"""The runner loads a directory, sizes its pool, and computes each row on its own."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import torch

from bough.executor import runner as runner_module
from bough.executor.models.config import ModelError
from bough.executor.runner import ModelRunner, RunnerConfig
from bough.kernels.cpu import library
from bough.kernels.cpu.build import BuildError
from tests.helpers.batches import Driver, Row
from tests.helpers.checkpoints import write_checkpoint


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


def load(model_dir: Path, **fields: object) -> ModelRunner:
    return ModelRunner.load(RunnerConfig(model_dir=model_dir, **{"num_pages": 200, "max_rows": 40, **fields}))  # type: ignore[arg-type]


def prompt(length: int, seed: int) -> list[int]:
    return torch.randint(3, 512, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_logits_alone_and_among_31_others_bit_for_bit(model_dir: Path, dtype: str) -> None:
    runner = load(model_dir, dtype=dtype)
    assert runner.backend == "native"
    prompts = [prompt(20 + 3 * index, index) for index in range(32)]
    alone = []
    for tokens in prompts:
        driver = Driver(runner)
        row = driver.row(tokens)
        driver.step([(row, len(tokens) - 1)])
        alone.append(driver.step([(row, 1)])[0])
    driver = Driver(runner)
    rows = [driver.row(tokens) for tokens in prompts]
    for row in rows:
        driver.step([(row, len(row.tokens) - 1)])
    together = driver.step([(row, 1) for row in rows])
    assert torch.equal(together, torch.stack(alone))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_row_has_the_same_logits_after_a_recomputation_and_after_a_cache_hit(model_dir: Path, dtype: str) -> None:
    runner = load(model_dir, dtype=dtype)
    driver = Driver(runner)
    row = driver.row(prompt(90, 1))
    generated = driver.generate(row, 30)
    expected = driver.step([(row, 1)])
    recomputed = Row(tokens=row.tokens)
    assert torch.equal(driver.step([(recomputed, len(row.tokens))]), expected)
    hit = driver.row(row.tokens, shared_with=row, num_shared=64)
    driver.step([(hit, 17)])
    assert torch.equal(driver.step([(hit, len(row.tokens) - 81)]), expected)
    assert len(generated) == 30


def test_a_copied_page_serves_like_the_original(model_dir: Path) -> None:
    runner = load(model_dir)
    driver = Driver(runner)
    row = driver.row(prompt(40, 2))
    driver.step([(row, 39)])
    fork = Row(tokens=row.tokens, pages=[*row.pages[:2], 0], num_computed=39)
    fork.pages[2] = next(page for page in range(runner.num_pages) if page not in row.pages)
    runner.copy_pages([row.pages[2]], [fork.pages[2]])
    runner.copy_pages([], [])
    assert torch.equal(driver.step([(fork, 1)]), driver.step([(row, 1)]))


def test_a_step_in_which_no_row_samples_gives_no_logits(model_dir: Path) -> None:
    runner = load(model_dir)
    driver = Driver(runner)
    row = driver.row(prompt(30, 3))
    row.pages = [5, 6]
    batch = runner_module._chunk_batch(20, runner.page_size)
    none = torch.empty(0, dtype=torch.int64)
    empty = type(batch)(**{name: getattr(batch, name) for name in batch.__slots__} | {"logit_rows": none})
    assert runner.forward(empty).shape == (0, runner.vocab_size)


def test_a_step_larger_than_the_budget_still_runs(model_dir: Path) -> None:
    runner = load(model_dir, token_budget=32)
    driver = Driver(runner)
    tokens = prompt(500, 4)
    whole = driver.step([(driver.row(tokens), 500)])
    driver = Driver(runner)
    assert torch.equal(driver.prefill(driver.row(tokens), 31)[-1:], whole)


def test_the_pool_is_measured_and_capped_by_what_all_rows_can_fill(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = load(model_dir, num_pages=None, max_rows=3, max_context=100)
    assert runner.num_pages == 3 * 7
    page_bytes = runner.layout.page_bytes
    monkeypatch.setattr(runner_module, "resident_peak_bytes", lambda: 0)
    monkeypatch.setattr(runner_module, "available_memory_bytes", lambda: 17 * page_bytes)
    assert load(model_dir, num_pages=None, max_rows=3, max_context=100).num_pages == 15
    monkeypatch.setattr(runner_module, "available_memory_bytes", lambda: 7 * page_bytes)
    with pytest.raises(ModelError, match="6 KV pages is left, one sequence of max_context = 100 tokens needs 7"):
        load(model_dir, num_pages=None, max_rows=3, max_context=100)


def test_max_context_never_exceeds_the_models(model_dir: Path) -> None:
    assert load(model_dir, max_context=5000).max_context == 1024
    assert load(model_dir, max_context=50).max_context == 50


def test_progress_rises_to_one_and_says_what_is_done(model_dir: Path) -> None:
    seen: list[tuple[float, str]] = []
    ModelRunner.load(
        RunnerConfig(model_dir=model_dir, max_rows=2), lambda fraction, what: seen.append((fraction, what))
    )
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions)
    assert seen[-1] == (1.0, "ready")
    assert {what.split(" (")[0] for _, what in seen} == {"weights", "measuring memory", "warming up", "ready"}


def test_without_a_compiler_torch_takes_over_and_says_so(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise BuildError("no C++ compiler found")

    monkeypatch.setattr(runner_module, "OpRunner", lambda **_: fail())
    with caplog.at_level(logging.WARNING):
        assert load(model_dir).backend == "torch"
    assert "no C++ compiler found" in caplog.text
    with pytest.raises(ModelError, match="backend = 'native' cannot be used: no C\\+\\+ compiler found"):
        load(model_dir, backend="native")
    assert library.load_library() is not None


def test_both_backends_agree_in_bfloat16(model_dir: Path) -> None:
    tokens = prompt(200, 5)
    logits = []
    for backend in ("native", "torch"):
        driver = Driver(load(model_dir, dtype="bfloat16", backend=backend))
        logits.append(driver.prefill(driver.row(tokens), 70))
    scale = float(logits[1].abs().max())
    assert float((logits[0] - logits[1]).abs().max()) < 0.05 * scale


def test_an_unsupported_architecture_is_named_with_the_supported_ones(model_dir: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    shutil.copytree(model_dir, target)
    config = target / "config.json"
    config.write_text(config.read_text().replace("Qwen3ForCausalLM", "GPT2LMHeadModel"))
    with pytest.raises(ModelError, match="'GPT2LMHeadModel' is not supported; accepted: LlamaForCausalLM, Mistral"):
        load(target)
