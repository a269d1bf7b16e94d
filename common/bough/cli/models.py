"""Which model directory is served, and whether it can be: looked at before anything is started, and without torch."""

from __future__ import annotations

import json
from pathlib import Path

from bough.common.config import Settings
from bough.common.errors import ModelError
from bough.common.model import read_model_files

SUPPORTED_ARCHITECTURES = ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM")
"""What the executor has; its own list cannot be asked without importing torch. A test holds the two equal."""

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


def with_model(settings: Settings) -> Settings:
    """Settings whose model is set: the demo model stands for an absent one. ModelError when there is none."""
    if settings.model is not None:
        return settings
    try:
        from bough.demo import MODEL_ID, model_dir
    except ModuleNotFoundError:
        raise ModelError("no model directory was given and the demo model is not installed") from None
    return settings.model_copy(
        update={"model": model_dir(), "served_model_name": settings.served_model_name or MODEL_ID}
    )


def check_model(settings: Settings) -> None:
    """Raise ModelError, saying what is missing or not supported, unless the model directory can be served."""
    if settings.model is None:
        raise ModelError("no model directory was given")
    files = read_model_files(settings.model, max_context=settings.max_context)
    names = files.config.get("architectures") or ["none"]
    if not isinstance(names, list) or not set(names) & set(SUPPORTED_ARCHITECTURES):
        raise ModelError(
            f"{str(settings.model / 'config.json')!r}: architecture {names} is not supported; "
            f"supported: {', '.join(SUPPORTED_ARCHITECTURES)}"
        )
    if settings.load_format != "dummy":
        _check_weights(settings.model)


def _check_weights(path: Path) -> None:
    index = path / _INDEX
    if not index.is_file():
        if not (path / _SINGLE).is_file():
            raise ModelError(f"model directory {str(path)!r} lacks {_SINGLE} (or {_INDEX} and its shards)")
        return
    try:
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(f"{str(index)!r} is not an index of safetensors: {error!r}") from None
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        raise ModelError(f"model directory {str(path)!r} lacks {', '.join(missing)}, which {_INDEX} names")
