"""An interpreted GPU with all its kernels, one that stops, and one whose memory is measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bough.executor.gpu.runner import GpuRunner
from bough.executor.pipeline.base import DeviceFailedError
from bough.executor.runner import RunnerConfig
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import EngineDriver, admission, generate, load_runner, make_engine, random_tokens
from tests.helpers.interpreted_gpu import interpreted_gpu, make_interpreted_engine


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3-yarn", tmp_path_factory.mktemp("model"))


def test_greedy_tokens_with_the_kernels_of_all_layers_are_those_of_the_cpu(model_dir: Path) -> None:
    requests = [admission(i, random_tokens(2 + i, i), max_tokens=3) for i in (1, 2)]
    expected = generate(make_engine(load_runner(model_dir)), *requests)
    with interpreted_gpu(layers="kernels") as gpu:
        engine = make_interpreted_engine(model_dir, num_pages=4, max_rows=2, token_budget=3, max_context=64)
        gpu.lags = True
        assert generate(engine, *requests) == expected


@pytest.mark.parametrize("seen_before_launch", [False, True])
def test_a_gpu_that_stops_ends_the_engine_and_no_request(model_dir: Path, seen_before_launch: bool) -> None:
    def illegal_access() -> None:
        raise RuntimeError("planted")

    with interpreted_gpu() as gpu:
        engine = make_interpreted_engine(model_dir, max_rows=2, token_budget=4)
        gpu.lags = True
        driver = EngineDriver(engine)
        driver.admit(admission(1, random_tokens(6, 1), max_tokens=50))
        for _ in range(4):
            driver.step()
        gpu.queue(illegal_access)
        if seen_before_launch:
            with pytest.raises(RuntimeError, match="planted"):
                gpu.finish()
        driver.admit(admission(2, random_tokens(6, 2), max_tokens=50))
        with pytest.raises(DeviceFailedError, match=r"the GPU has failed: .*; the executor ends"):
            driver.run()
    assert driver.tokens[1] and not driver.failures and not driver.finish


def test_the_pool_has_the_pages_that_all_rows_can_fill_where_memory_is_plenty(model_dir: Path) -> None:
    config = RunnerConfig(model_dir=model_dir, dtype="float32", max_rows=3, token_budget=16, max_context=64)
    with interpreted_gpu():
        assert GpuRunner.load(config, torch.device("cpu")).num_pages == 3 * 4
