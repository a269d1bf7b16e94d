"""Configurations of both transformers generations are read alike, and what is not supported is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bough.executor.models.config import GenerationDefaults, ModelConfig, ModelError, RopeConfig, parse_model_config
from bough.executor.models.registry import supported_architectures
from tests.helpers.checkpoints import TINY, rewrite_config_like_transformers_4, write_checkpoint

BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}


def parse(**changes: object) -> ModelConfig:
    return parse_model_config({**BASE, **changes})


@pytest.mark.parametrize("name", TINY)
def test_old_and_new_field_names_mean_the_same(name: str, tmp_path: Path) -> None:
    write_checkpoint(name, tmp_path)
    new = ModelConfig.read(tmp_path)
    rewrite_config_like_transformers_4(tmp_path)
    assert ModelConfig.read(tmp_path) == new


def test_absent_fields_have_the_defaults_of_transformers() -> None:
    config = parse()
    assert config.num_kv_heads == 4
    assert config.head_dim == 16
    assert config.rope == RopeConfig(kind="default", theta=10000.0)
    assert config.dtype == "float32"
    assert config.windows == (None,) * 4
    assert not config.tie_word_embeddings
    assert parse(architectures=["Qwen3ForCausalLM"]).head_dim == 128


def test_dtypes_are_read_from_either_field() -> None:
    assert parse(dtype="bfloat16").dtype == "bfloat16"
    assert parse(torch_dtype="bfloat16").dtype == "bfloat16"
    assert parse(torch_dtype="float16").dtype == "float32"


def test_windows_follow_the_architecture() -> None:
    assert parse(sliding_window=8).windows == (None,) * 4
    assert parse(architectures=["MistralForCausalLM"], sliding_window=8).windows == (8,) * 4
    assert parse(architectures=["MistralForCausalLM"], sliding_window=None).windows == (None,) * 4
    assert parse(architectures=["MistralForCausalLM"]).windows == (4096,) * 4
    qwen = {"architectures": ["Qwen2ForCausalLM"], "sliding_window": 8, "max_window_layers": 3}
    assert parse(**qwen).windows == (None,) * 4
    assert parse(**qwen, use_sliding_window=True).windows == (None, None, None, 8)
    kinds = ["sliding_attention", "full_attention"] * 2
    assert parse(**qwen, use_sliding_window=True, layer_types=kinds).windows == (8, None, 8, None)


def test_the_old_rope_scaling_field_is_read() -> None:
    rope = parse(rope_theta=5e5, rope_scaling={"type": "linear", "factor": 2.0}).rope
    assert rope == RopeConfig(kind="linear", theta=5e5, factor=2.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "field 'hidden_size' is missing"),
        ({"hidden_size": "64"}, "hidden_size = '64', expected a positive integer"),
        ({"num_hidden_layers": 0}, "num_hidden_layers = 0, expected a positive integer"),
        ({"rms_norm_eps": -1}, "rms_norm_eps = -1, expected a positive number"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings = 'yes', expected true or false"),
        ({"architectures": []}, r"architectures = \[\], expected a list with one class name"),
        ({"hidden_act": "gelu"}, "hidden_act = 'gelu' is not supported; accepted: 'silu'"),
        ({"dtype": "float8"}, "dtype = 'float8' is not supported; accepted: float32, bfloat16, float16"),
        ({"num_key_value_heads": 3}, "num_attention_heads = 4 is no multiple of num_key_value_heads = 3"),
        ({"head_dim": 15}, "head_dim = 15, expected an even number"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config .quant_method = 'gptq'. is not"),
        ({"rope_scaling": {"type": "longrope"}}, "rope_type = 'longrope' is not supported; accepted: default, linear"),
        ({"rope_scaling": {"type": "llama3"}}, "rope_scaling: field 'factor' is missing"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters: field 'factor' is missing"),
        ({"rope_scaling": "big"}, "rope_parameters = 'big', expected an object"),
        ({"rope_scaling": {"type": "yarn", "mscale": 1.0}}, "mscale is not supported"),
        (
            {"architectures": ["Qwen2ForCausalLM"], "use_sliding_window": True, "layer_types": ["other"] * 4},
            "expected 4 of full_attention, sliding_attention",
        ),
    ],
)
def test_a_defect_is_named_with_what_is_accepted(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse(**changes)


@pytest.mark.parametrize(("content", "message"), [(None, "no such file"), ("{", "as JSON"), ("[]", "found list")])
def test_an_unreadable_file_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ModelError, match=f"config.json: .*{message}"):
        ModelConfig.read(tmp_path)


def test_generation_defaults_are_read(tmp_path: Path) -> None:
    knobs = {"do_sample": True, "temperature": 0.6, "top_p": 0.95, "top_k": 20, "eos_token_id": [5, 7]}
    (tmp_path / "generation_config.json").write_text(json.dumps(knobs))
    assert GenerationDefaults.read(tmp_path) == GenerationDefaults(
        eos_token_ids=(5, 7), temperature=0.6, top_p=0.95, top_k=20
    )


def test_end_of_sequence_ids_fall_back_to_the_model_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**BASE, "eos_token_id": 2}))
    assert GenerationDefaults.read(tmp_path) == GenerationDefaults(eos_token_ids=(2,))


def test_supported_architectures_are_the_four_families() -> None:
    families = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
    assert supported_architectures() == families
