"""A model directory that cannot be served: `bough serve` says why, and does not start."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bough.demo import model_dir
from tests.integration.server import copy_model, run_to_end


def _refused(directory: Path) -> str:
    done = run_to_end(["serve", str(directory), "--port", "0"])
    assert done.returncode == 2, (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    assert str(directory) in done.stderr
    assert "Ready" not in done.stdout
    return done.stderr


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_the_file_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    directory = copy_model(model_dir(), tmp_path / "model")
    (directory / name).unlink()
    assert name in _refused(directory)


def test_a_directory_that_does_not_exist_is_named(tmp_path: Path) -> None:
    assert "absent" in _refused(tmp_path / "absent")


def test_an_architecture_that_is_not_supported_is_named_with_those_that_are(tmp_path: Path) -> None:
    config = json.loads((model_dir() / "config.json").read_text())
    config["architectures"] = ["GPT2LMHeadModel"]
    message = _refused(copy_model(model_dir(), tmp_path / "model", config=json.dumps(config)))
    assert "GPT2LMHeadModel" in message
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        assert name in message


def test_a_config_that_is_no_json_is_named(tmp_path: Path) -> None:
    assert "config.json" in _refused(copy_model(model_dir(), tmp_path / "model", config="{"))


def test_weights_that_are_cut_off_end_the_launcher_with_the_reason(tmp_path: Path) -> None:
    directory = copy_model(model_dir(), tmp_path / "model")
    weights = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").unlink()
    (directory / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    done = run_to_end(["serve", str(directory), "--port", "0"], timeout_s=90)
    assert done.returncode != 0
    assert "model.safetensors" in done.stderr
