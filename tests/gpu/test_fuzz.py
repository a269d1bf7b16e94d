"""Random operations on an engine on a GPU and on one on the CPU: the same tokens, and no page lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engine_fuzz import compare, drive, random_operations
from tests.helpers.engines import load_runner, make_engine, make_gpu_engine

pytestmark = pytest.mark.gpu

NUM_OPERATIONS = 2_600


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.mark.usefixtures("short_prefixes_are_shared")
@pytest.mark.parametrize(
    ("seed", "num_pages", "max_rows", "token_budget"),
    [(1, 26, 10, 64), (2, 40, 16, 24), (3, 60, 24, 512), (4, 26, 5, 33)],
)
def test_random_operations_end_with_the_tokens_of_the_cpu_and_no_page_lost(
    model_dir: Path, seed: int, num_pages: int, max_rows: int, token_budget: int
) -> None:
    operations = random_operations(seed, NUM_OPERATIONS, num_rows=max_rows)
    runner = load_runner(model_dir, num_pages=num_pages)
    expected = drive(make_engine(runner, max_rows=max_rows, token_budget=token_budget), operations)
    engine = make_gpu_engine(model_dir, num_pages=num_pages, max_rows=max_rows, token_budget=token_budget)
    driver = drive(engine, operations, by_bases=True)
    ties = compare(operations, driver, expected, lambda: make_engine(runner))
    num_tokens = sum(len(tokens) for tokens in driver.tokens.values())
    assert len(ties) <= num_tokens // 1000, f"{len(ties)} ties among {num_tokens} tokens"
    assert driver.retracted and not driver.failures
