"""Which class serves which architecture name of a `config.json`."""

from __future__ import annotations

from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig, ModelError
from bough.executor.models.llama import LlamaForCausalLM
from bough.executor.models.mistral import MistralForCausalLM
from bough.executor.models.qwen2 import Qwen2ForCausalLM
from bough.executor.models.qwen3 import Qwen3ForCausalLM

_MODELS = (LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM)


def supported_architectures() -> tuple[str, ...]:
    """Names accepted in the `architectures` field of `config.json`."""
    return tuple(model.__name__ for model in _MODELS)


def check_supported(config: ModelConfig) -> None:
    """Refuse an architecture that has no class here.

    Raises:
        ModelError: names the architecture and lists the supported ones.
    """
    if config.architecture not in supported_architectures():
        accepted = ", ".join(supported_architectures())
        raise ModelError(f"config.json: architecture {config.architecture!r} is not supported; accepted: {accepted}")


def build_model(config: ModelConfig, build: BuildContext) -> LlamaForCausalLM:
    """Build the model with its weights.

    Raises:
        ModelError: the architecture is not supported, or a tensor is missing or has the wrong shape.
    """
    check_supported(config)
    classes = {model.__name__: model for model in _MODELS}
    return classes[config.architecture](config, build)
