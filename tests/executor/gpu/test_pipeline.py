"""The executor's GPU side on an interpreted GPU: the tokens are those of the engine on the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bough.executor.engine import Engine
from bough.executor.runner import ModelRunner
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import admission, generate, load_runner, make_engine, random_tokens
from tests.helpers.interpreted_gpu import InterpretedGpu, interpreted_gpu, make_interpreted_engine


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def cpu(model_dir: Path) -> ModelRunner:
    return load_runner(model_dir)


@pytest.fixture(scope="module")
def device() -> Iterator[InterpretedGpu]:
    with interpreted_gpu() as gpu:
        yield gpu


@pytest.fixture(scope="module")
def engine(model_dir: Path, device: InterpretedGpu) -> Engine:
    return make_interpreted_engine(model_dir)


@pytest.fixture(params=["at once", "when waited for"])
def gpu(device: InterpretedGpu, request: pytest.FixtureRequest) -> Iterator[InterpretedGpu]:
    device.lags = request.param == "when waited for"
    yield device
    device.lags = False


def test_greedy_tokens_of_chunked_prompts_beside_decodes_are_those_of_the_cpu(
    cpu: ModelRunner, engine: Engine, gpu: InterpretedGpu
) -> None:
    seed = 10 + gpu.lags
    requests = [
        admission(i, random_tokens(length, seed * i), max_tokens=9) for i, length in enumerate((40, 1, 17, 61, 16), 1)
    ]
    assert generate(engine, *requests) == generate(make_engine(cpu), *requests)
