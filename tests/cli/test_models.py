"""A model directory is looked at before anything is started."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bough.cli.main import main
from bough.cli.models import SUPPORTED_ARCHITECTURES, check_model, with_model
from bough.common.config import Settings
from bough.common.errors import ModelError
from bough.executor.models.registry import supported_architectures


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "vocab_size": 8}))
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    return tmp_path


def test_the_list_of_architectures_is_that_of_the_executor() -> None:
    assert set(SUPPORTED_ARCHITECTURES) == set(supported_architectures())


def test_a_complete_directory_is_accepted(model_dir: Path) -> None:
    check_model(Settings(model=model_dir))


def test_the_demo_model_stands_for_an_absent_one() -> None:
    settings = with_model(Settings())
    assert settings.served_model_name == "bough-demo"
    check_model(settings)


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_missing_file_is_named(model_dir: Path, name: str) -> None:
    (model_dir / name).unlink()
    with pytest.raises(ModelError, match=f"lacks {name}"):
        check_model(Settings(model=model_dir))


def test_a_missing_shard_is_named(model_dir: Path) -> None:
    (model_dir / "a.safetensors").write_bytes(b"")
    (model_dir / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}})
    )
    with pytest.raises(ModelError, match=r"lacks b\.safetensors, which"):
        check_model(Settings(model=model_dir))


def test_serve_lists_what_is_supported_and_exits_with_2(model_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model_dir / "config.json").write_text(json.dumps({"architectures": ["GPT2LMHeadModel"]}))
    assert main(["serve", str(model_dir), "--port", "0"]) == 2
    said = capsys.readouterr().err
    assert "GPT2LMHeadModel" in said
    assert all(name in said for name in SUPPORTED_ARCHITECTURES)


def test_serve_names_a_directory_that_does_not_exist(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", str(tmp_path / "nowhere"), "--port", "0"]) == 2
    assert "nowhere" in capsys.readouterr().err
