"""Weights come from single or sharded safetensors, and every defect is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bough.executor.loader import Checkpoint
from bough.executor.models.config import ModelError
from tests.helpers.checkpoints import write_checkpoint


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    save_file(
        {"a": torch.arange(6.0).view(2, 3), "b": torch.ones(4, dtype=torch.float16)}, tmp_path / "model.safetensors"
    )
    return tmp_path


def test_tensors_are_converted_to_the_serving_dtype(model_dir: Path) -> None:
    with Checkpoint(model_dir, torch.bfloat16) as weights:
        assert torch.equal(weights.take("a", (2, 3)), torch.arange(6.0).view(2, 3).bfloat16())
        assert weights.take("b", (4,)).dtype == torch.bfloat16


def test_shards_are_found_by_the_index(tmp_path: Path) -> None:
    write_checkpoint("llama3", tmp_path)
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())["weight_map"]
    with Checkpoint(tmp_path, torch.float32) as weights:
        assert all(name in weights for name in index)
        assert weights.take("model.norm.weight", (64,)).shape == (64,)


def test_progress_counts_tensors(model_dir: Path) -> None:
    seen: list[float] = []
    with Checkpoint(model_dir, torch.float32, lambda fraction, what: seen.append(fraction)) as weights:
        weights.take("a", (2, 3))
        weights.take("b", (4,))
    assert seen == [0.5, 1.0]


def test_a_missing_tensor_is_named(model_dir: Path) -> None:
    with Checkpoint(model_dir, torch.float32) as weights, pytest.raises(ModelError, match="tensor 'c' is missing"):
        weights.take("c", (1,))


def test_a_wrong_shape_is_named_with_both_shapes(model_dir: Path) -> None:
    with (
        Checkpoint(model_dir, torch.float32) as weights,
        pytest.raises(ModelError, match=r"'a' has shape \[2, 3\].*\[3, 2\]"),
    ):
        weights.take("a", (3, 2))


def test_quantized_weights_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with Checkpoint(tmp_path, torch.float32) as weights, pytest.raises(ModelError, match=r"torch.int8; quantized"):
        weights.take("a", (2,))


def test_a_directory_without_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no weights; expected model.safetensors or model.safetensors.index.json"):
        Checkpoint(tmp_path, torch.float32).__enter__()


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_checkpoint("llama3", tmp_path)
    victim = sorted(tmp_path.glob("model-*.safetensors"))[1]
    victim.unlink()
    with pytest.raises(ModelError, match=f"{victim.name}: no such file"):
        Checkpoint(tmp_path, torch.float32).__enter__()


def test_a_truncated_file_is_named(model_dir: Path) -> None:
    path = model_dir / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(ModelError, match=r"model.safetensors: not a complete safetensors file"):
        Checkpoint(model_dir, torch.float32).__enter__()


@pytest.mark.parametrize("content", ["{}", '{"weight_map": {}}'])
def test_an_index_without_a_map_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ModelError, match="field 'weight_map' is missing"):
        Checkpoint(tmp_path, torch.float32).__enter__()
