"""Tiny random Hugging Face checkpoints of every architecture, made by transformers with a fixed seed.

From a shell: `python -m tests.helpers.checkpoints qwen3-7m DIR` writes one of them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

_SMALL: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "rms_norm_eps": 1e-6,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one checkpoint is made: transformers' model type and its fields."""

    model_type: str
    fields: Mapping[str, Any] = field(default_factory=dict)
    shard_size: str = "1GB"


RECIPES: dict[str, Recipe] = {
    "llama2": Recipe(model_type="llama", fields={"num_key_value_heads": 4, "rms_norm_eps": 1e-5}),
    "llama3": Recipe(
        model_type="llama",
        fields={
            "tie_word_embeddings": True,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
        shard_size="100KB",
    ),
    "llama-linear": Recipe(
        model_type="llama",
        fields={
            "attention_bias": True,
            "mlp_bias": True,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
    ),
    "mistral": Recipe(model_type="mistral", fields={"sliding_window": 64, "head_dim": 32}),
    "qwen2": Recipe(model_type="qwen2", fields={"tie_word_embeddings": True, "num_key_value_heads": 1}),
    "qwen2-window": Recipe(
        model_type="qwen2", fields={"use_sliding_window": True, "sliding_window": 48, "max_window_layers": 1}
    ),
    "qwen3": Recipe(model_type="qwen3", fields={"head_dim": 32, "tie_word_embeddings": True}, shard_size="100KB"),
    "qwen3-yarn": Recipe(
        model_type="qwen3",
        fields={
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 256,
            },
        },
    ),
    "qwen3-7m": Recipe(
        model_type="qwen3",
        fields={
            "vocab_size": 4096,
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 8,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 32,
            "max_position_embeddings": 4096,
            "tie_word_embeddings": True,
        },
    ),
}
"""By name. All are tiny but `qwen3-7m`, which has the size of the demo model and is for speed."""

TINY = tuple(name for name in RECIPES if name != "qwen3-7m")


def write_checkpoint(name: str, model_dir: Path, dtype: torch.dtype = torch.float32, seed: int = 0) -> Path:
    """Write `config.json`, `generation_config.json` and safetensors of a recipe, and return the directory.

    Weights are larger than transformers' initial ones, and norms and biases are not at their neutral values, so that
    logits differ clearly between tokens and no part of the model can be left out unseen.
    """
    recipe = RECIPES[name]
    config = AutoConfig.for_model(recipe.model_type, **{**_SMALL, **recipe.fields})
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        from_config: Any = AutoModelForCausalLM.from_config  # untyped in transformers
        model = from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() == 1:
                    parameter.add_(torch.randn_like(parameter) * 0.2)
                else:
                    parameter.normal_(std=1.2 / parameter.shape[-1] ** 0.5)
    model.to(dtype).save_pretrained(model_dir, max_shard_size=recipe.shard_size)
    return model_dir


def rewrite_config_like_transformers_4(model_dir: Path) -> None:
    """Turn `dtype` and `rope_parameters` of a written `config.json` into the fields of older releases."""
    path = model_dir / "config.json"
    config = json.loads(path.read_text())
    config["torch_dtype"] = config.pop("dtype")
    rope = dict(config.pop("rope_parameters"))
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    path.write_text(json.dumps(config))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe", choices=sorted(RECIPES))
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    arguments = parser.parse_args()
    write_checkpoint(arguments.recipe, arguments.model_dir, getattr(torch, arguments.dtype))


if __name__ == "__main__":
    _main()
