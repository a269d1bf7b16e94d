"""What a model directory says about itself, read without torch: identity, context length, stop tokens, defaults."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bough.common.errors import MismatchError, ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """Which model and vocabulary a service holds."""

    model: str
    revision: str
    vocab_hash: bytes
    vocab_size: int
    max_context: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """Sampling defaults of generation_config.json; None where it is silent."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model directory, its parsed configuration and what follows from it."""

    path: Path
    identity: ModelIdentity
    config: dict[str, Any]
    eos_token_ids: tuple[int, ...]
    defaults: GenerationDefaults = field(default_factory=GenerationDefaults)


def read_model_files(path: Path, *, served_name: str | None = None, max_context: int | None = None) -> ModelFiles:
    """Read config.json, generation_config.json and hash tokenizer.json.

    Args:
        path: A Hugging Face model directory.
        served_name: Public name; the directory's name where None.
        max_context: Lowers the context length of config.json.

    Raises:
        ModelError: A file is missing or broken; the message names it.
    """
    if not path.is_dir():
        raise ModelError(f"model directory {str(path)!r} does not exist")
    config_bytes = _read(path, "config.json")
    config = _parse(config_bytes, path / "config.json")
    generation_path = path / "generation_config.json"
    generation = _parse(generation_path.read_bytes(), generation_path) if generation_path.exists() else {}
    native_context = int(config.get("max_position_embeddings", 2048))
    if max_context is not None and not 1 <= max_context <= native_context:
        raise ModelError(f"max_context={max_context} is not within 1..{native_context} (max_position_embeddings)")
    identity = ModelIdentity(
        model=served_name or path.resolve().name,
        revision=hashlib.sha256(config_bytes).hexdigest()[:16],
        vocab_hash=hashlib.sha256(_read(path, "tokenizer.json")).digest(),
        vocab_size=int(config.get("vocab_size", 0)),
        max_context=max_context or native_context,
    )
    return ModelFiles(
        path=path,
        identity=identity,
        config=config,
        eos_token_ids=_ids(generation.get("eos_token_id", config.get("eos_token_id"))),
        defaults=_defaults(generation),
    )


def check_same_model(mine: ModelIdentity, theirs: ModelIdentity, *, peer: str) -> None:
    """Raise MismatchError, naming both values, unless two services hold the same model and vocabulary."""
    for name in ("revision", "vocab_hash", "vocab_size", "max_context"):
        here, there = getattr(mine, name), getattr(theirs, name)
        if here != there:
            shown = [v.hex()[:16] if isinstance(v, bytes) else v for v in (here, there)]
            raise MismatchError(f"{name} differs: {shown[0]} here, {shown[1]} at {peer}")


def _read(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except FileNotFoundError:
        raise ModelError(f"model directory {str(path)!r} lacks {name}") from None


def _parse(data: bytes, path: Path) -> dict[str, Any]:
    try:
        parsed = json.loads(data)
    except ValueError as error:
        raise ModelError(f"{str(path)!r} is not valid JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise ModelError(f"{str(path)!r} holds {type(parsed).__name__}, not an object")
    return parsed


def _ids(value: int | list[int] | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(value) if isinstance(value, list) else (value,)


def _defaults(generation: dict[str, Any]) -> GenerationDefaults:
    if generation.get("do_sample") is False:
        # Greedy checkpoints often leave stale sampling fields beside do_sample=false; transformers ignores them too.
        return GenerationDefaults()
    top_k = generation.get("top_k")
    return GenerationDefaults(
        temperature=generation.get("temperature"),
        top_p=generation.get("top_p"),
        top_k=None if top_k is None else max(0, int(top_k)),
        min_p=generation.get("min_p"),
        repetition_penalty=generation.get("repetition_penalty"),
    )
