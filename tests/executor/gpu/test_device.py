"""Which device is chosen, and what is said where a GPU cannot be used."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from bough.executor.gpu.device import choose_device
from bough.executor.gpu.runner import GpuRunner
from bough.executor.models.config import ModelError
from bough.executor.runner import RunnerConfig
from tests.helpers.checkpoints import write_checkpoint


class FakeGpu:
    """A torch that finds a GPU of some capability; `break_at` takes away one thing that it needs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, break_at: str = "") -> None:
        monkeypatch.setattr(torch, "__version__", "2.11.0")
        monkeypatch.setattr(torch.version, "cuda", None if break_at == "build" else "13.0")
        monkeypatch.setattr(torch.cuda, "is_available", lambda: break_at != "driver")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5) if break_at == "age" else (8, 0))
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old GPU")
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
        if break_at == "triton":
            monkeypatch.setitem(sys.modules, "triton", None)


PROBLEMS = {
    "build": r"this torch \(2\.11\.0\) is built without CUDA",
    "driver": "torch finds no CUDA device .* CUDA_VISIBLE_DEVICES",
    "age": r"Old GPU has compute capability 7\.5, 8\.0 or newer is needed",
    "triton": "triton cannot be imported",
}


@pytest.mark.parametrize("problem", PROBLEMS)
def test_a_gpu_that_is_asked_for_and_cannot_be_used_is_an_error_that_says_why(
    monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    FakeGpu(monkeypatch, problem)
    with pytest.raises(ModelError, match=f"device = 'cuda' cannot be used: {PROBLEMS[problem]}.*'cpu' and 'auto'"):
        choose_device("cuda")


@pytest.mark.parametrize("problem", PROBLEMS)
def test_auto_takes_the_cpu_where_no_gpu_can_be_used(monkeypatch: pytest.MonkeyPatch, problem: str) -> None:
    FakeGpu(monkeypatch, problem)
    assert choose_device("auto") == torch.device("cpu")


def test_a_gpu_that_can_be_used_is_taken_unless_the_cpu_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeGpu(monkeypatch)
    assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
    assert choose_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("head_dim", [24, 272])
def test_a_head_dimension_without_kernels_is_refused_before_any_weight_is_read(tmp_path: Path, head_dim: int) -> None:
    model_dir = write_checkpoint("llama2", tmp_path / "model")
    config = json.loads((model_dir / "config.json").read_text())
    (model_dir / "config.json").write_text(json.dumps({**config, "head_dim": head_dim}))
    with pytest.raises(ModelError, match=f"head_dim = {head_dim}; multiples of 16 up to 256 are accepted"):
        GpuRunner.load(RunnerConfig(model_dir=model_dir), torch.device("cuda", 0))
