"""What a Hugging Face `config.json` and `generation_config.json` say, as typed values.

Files written by transformers 5 (`dtype`, `rope_parameters`) and by older releases (`torch_dtype`, `rope_theta`,
`rope_scaling`) are both read. Whatever would change the result and is not implemented is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

DTypeName = Literal["float32", "bfloat16"]
RopeKind = Literal["default", "linear", "llama3", "yarn"]
_ROPE_KINDS: tuple[RopeKind, ...] = ("default", "linear", "llama3", "yarn")
_REQUIRED = object()


class ModelError(ValueError):
    """A model directory cannot be served; the text names the file, field or tensor and what is accepted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: base frequency and how it is stretched to longer contexts."""

    kind: RopeKind
    theta: float
    factor: float = 1.0
    """How many times the context was extended (`linear`, `llama3`, `yarn`)."""
    original_max_position: int = 0
    """Context length before the extension (`llama3`, `yarn`)."""
    low_freq_factor: float = 1.0
    high_freq_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None
    """Multiplier on cos and sin (`yarn`); None derives it from `factor`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """Shape and numerics of a decoder-only model."""

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position: int
    """Longest context in tokens that the model was made for."""
    rms_norm_eps: float
    rope: RopeConfig
    attention_bias: bool
    mlp_bias: bool
    tie_word_embeddings: bool
    windows: tuple[int | None, ...]
    """Per layer: how many of the last tokens a query sees, its own included; None sees all."""
    dtype: DTypeName
    """The checkpoint's own dtype (float16 checkpoints are served as float32 on the CPU)."""

    @property
    def context_cost(self) -> float:
        """Arithmetic that a token of context adds to computing a token, as a part of what it takes without any."""
        heads = self.num_heads + 2 * self.num_kv_heads
        attention = (heads + self.num_heads) * self.head_dim * self.hidden_size
        weights = self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)
        # Multiply-adds: one a weight, and one a dimension for the scores and for the values.
        full = sum(window is None for window in self.windows)
        return 2 * full * self.num_heads * self.head_dim / weights

    @classmethod
    def read(cls, model_dir: Path) -> ModelConfig:
        """Read `model_dir/config.json`.

        Raises:
            ModelError: the file is missing or unreadable, a field is missing, or its value is not supported.
        """
        return parse_model_config(read_json(model_dir / "config.json"))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What the model's authors recommend for sampling; None where they say nothing."""

    eos_token_ids: tuple[int, ...] = ()
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    @classmethod
    def read(cls, model_dir: Path) -> GenerationDefaults:
        """Read `generation_config.json`, and `config.json` for the end-of-sequence ids that it leaves out.

        Raises:
            ModelError: a file that exists is not a JSON object.
        """
        path = model_dir / "generation_config.json"
        generation = read_json(path) if path.is_file() else {}
        eos = generation.get("eos_token_id")
        if eos is None:
            eos = read_json(model_dir / "config.json").get("eos_token_id")
        ids = tuple(eos) if isinstance(eos, list) else () if eos is None else (eos,)
        # transformers ignores the knobs of a greedy configuration, whatever their values
        sampled = bool(generation.get("do_sample", False))
        knobs = generation if sampled else {}
        return cls(
            eos_token_ids=tuple(int(i) for i in ids),
            temperature=knobs.get("temperature"),
            top_p=knobs.get("top_p"),
            top_k=knobs.get("top_k"),
            min_p=knobs.get("min_p"),
            repetition_penalty=generation.get("repetition_penalty"),
        )


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object from a file of the model directory.

    Raises:
        ModelError: the file is missing, is not JSON, or holds something else than an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file; a Hugging Face model directory has one") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


class _Fields:
    """Typed access to a JSON object whose errors name the field."""

    def __init__(self, values: Mapping[str, Any], where: str) -> None:
        self._values = values
        self._where = where

    def _get(self, name: str, default: Any) -> Any:
        value = self._values.get(name)
        if value is not None:
            return value
        if default is _REQUIRED:
            raise ModelError(f"{self._where}: field {name!r} is missing")
        return default

    def integer(self, name: str, default: Any = _REQUIRED) -> int:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ModelError(f"{self._where}: {name} = {value!r}, expected a positive integer")
        return value

    def number(self, name: str, default: Any = _REQUIRED) -> float:
        value = self._get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise ModelError(f"{self._where}: {name} = {value!r}, expected a positive number")
        return float(value)

    def boolean(self, name: str, default: bool) -> bool:
        value = self._get(name, default)
        if not isinstance(value, bool):
            raise ModelError(f"{self._where}: {name} = {value!r}, expected true or false")
        return value


def parse_model_config(values: Mapping[str, Any]) -> ModelConfig:
    """Check the content of a `config.json` and make it typed.

    Raises:
        ModelError: a field is missing or its value is not supported.
    """
    fields = _Fields(values, "config.json")
    _refuse_unsupported(values)
    architecture = _architecture(values)
    hidden_size = fields.integer("hidden_size")
    num_heads = fields.integer("num_attention_heads")
    num_kv_heads = fields.integer("num_key_value_heads", num_heads)
    num_layers = fields.integer("num_hidden_layers")
    # Qwen3 is the one family whose head size does not follow from the hidden size
    default_head_dim = 128 if architecture == "Qwen3ForCausalLM" else max(1, hidden_size // num_heads)
    head_dim = fields.integer("head_dim", default_head_dim)
    max_position = fields.integer("max_position_embeddings")
    if num_heads % num_kv_heads:
        raise ModelError(
            f"config.json: num_attention_heads = {num_heads} is no multiple of num_key_value_heads = {num_kv_heads}"
        )
    if head_dim % 2:
        raise ModelError(f"config.json: head_dim = {head_dim}, expected an even number (rotary embedding)")
    return ModelConfig(
        architecture=architecture,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        max_position=max_position,
        rms_norm_eps=fields.number("rms_norm_eps", 1e-6),
        rope=_rope(values, max_position),
        attention_bias=fields.boolean("attention_bias", False),
        mlp_bias=fields.boolean("mlp_bias", False),
        tie_word_embeddings=fields.boolean("tie_word_embeddings", False),
        windows=_windows(values, fields, architecture, num_layers),
        dtype=_dtype(values),
    )


def _refuse_unsupported(values: Mapping[str, Any]) -> None:
    if values.get("quantization_config") is not None:
        method = values["quantization_config"].get("quant_method", "unknown")
        raise ModelError(
            f"config.json: quantization_config (quant_method = {method!r}) is not supported; "
            "accepted: float32, bfloat16 or float16 weights"
        )
    activation = values.get("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise ModelError(f"config.json: hidden_act = {activation!r} is not supported; accepted: 'silu'")


def _architecture(values: Mapping[str, Any]) -> str:
    names = values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise ModelError(f"config.json: architectures = {names!r}, expected a list with one class name")
    return str(names[0])


def _dtype(values: Mapping[str, Any]) -> DTypeName:
    name = values.get("dtype") or values.get("torch_dtype") or "float32"
    name = str(name).removeprefix("torch.")
    if name == "bfloat16":
        return "bfloat16"
    if name in ("float32", "float16"):
        return "float32"
    raise ModelError(f"config.json: dtype = {name!r} is not supported; accepted: float32, bfloat16, float16")


def _rope(values: Mapping[str, Any], max_position: int) -> RopeConfig:
    parameters = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(parameters, Mapping):
        raise ModelError(f"config.json: rope_parameters = {parameters!r}, expected an object")
    kind = parameters.get("rope_type") or parameters.get("type") or "default"
    if kind not in _ROPE_KINDS:
        raise ModelError(f"config.json: rope_type = {kind!r} is not supported; accepted: {', '.join(_ROPE_KINDS)}")
    where = "config.json: rope_parameters" if "rope_parameters" in values else "config.json: rope_scaling"
    fields = _Fields(parameters, where)
    theta = fields.number("rope_theta", values.get("rope_theta") or 10000.0)
    if kind == "default":
        return RopeConfig(kind=kind, theta=theta)
    if kind == "linear":
        return RopeConfig(kind=kind, theta=theta, factor=fields.number("factor"))
    if kind == "llama3":
        return RopeConfig(
            kind=kind,
            theta=theta,
            factor=fields.number("factor"),
            original_max_position=fields.integer("original_max_position_embeddings"),
            low_freq_factor=fields.number("low_freq_factor"),
            high_freq_factor=fields.number("high_freq_factor"),
        )
    if "mscale" in parameters or "mscale_all_dim" in parameters:
        raise ModelError(f"{where}: mscale is not supported; accepted: attention_factor or neither")
    return RopeConfig(
        kind=kind,
        theta=theta,
        factor=fields.number("factor"),
        original_max_position=fields.integer("original_max_position_embeddings", max_position),
        beta_fast=fields.number("beta_fast", 32.0),
        beta_slow=fields.number("beta_slow", 1.0),
        attention_factor=fields.number("attention_factor", 1.0) if parameters.get("attention_factor") else None,
    )


def _windows(values: Mapping[str, Any], fields: _Fields, architecture: str, num_layers: int) -> tuple[int | None, ...]:
    """Sliding windows by layer, as the architecture of that name reads its fields."""
    # an absent field means transformers' default of 4096, an explicit null means no window
    if architecture == "LlamaForCausalLM" or values.get("sliding_window", 4096) is None:
        return (None,) * num_layers
    window = fields.integer("sliding_window", 4096)
    if architecture == "MistralForCausalLM":
        return (window,) * num_layers
    if not fields.boolean("use_sliding_window", False):
        return (None,) * num_layers
    kinds = values.get("layer_types")
    if kinds is None:
        first = values.get("max_window_layers", 28)
        return tuple(window if layer >= first else None for layer in range(num_layers))
    known = {"full_attention": None, "sliding_attention": window}
    if not isinstance(kinds, list) or len(kinds) != num_layers or any(kind not in known for kind in kinds):
        raise ModelError(f"config.json: layer_types = {kinds!r}, expected {num_layers} of {', '.join(known)}")
    return tuple(known[kind] for kind in kinds)
