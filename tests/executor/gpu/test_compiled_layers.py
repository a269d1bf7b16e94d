"""A model run in the pieces that are compiled gives what it gives layer by layer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.gpu.compiled_layers import CompiledLayers
from bough.executor.kvcache import Cache, LayerCache
from bough.executor.layers.weights import BuildContext
from bough.executor.loader import Checkpoint
from bough.executor.models.config import ModelConfig
from bough.executor.models.llama import LlamaForCausalLM
from bough.executor.models.registry import build_model
from bough.kernels.gpu.compiled import Between, between_attentions
from bough.kernels.gpu.operations import GpuKernels
from tests.helpers.checkpoints import write_checkpoint

TOKENS = 8


class LastHeads:
    """Stands for an attention: the last heads of a token, to which a layer's cache adds its number."""

    name = "last heads"

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        return torch.add(qkv[:, -spec.num_heads * spec.head_dim :], cast(Any, cache))


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(name: str, model_dir: Path, device: torch.device) -> tuple[LlamaForCausalLM, ForwardBatch, Cache]:
    """A model in float32, a step of some tokens, and numbers in place of the layers' caches."""
    write_checkpoint(name, model_dir)
    config = ModelConfig.read(model_dir)
    with Checkpoint(model_dir, torch.float32, lambda fraction, what: None, device) as weights:
        kernels = GpuKernels(device, pdl=False)
        model = build_model(
            config,
            BuildContext(weights=weights, kernels=kernels, attention=LastHeads(), max_context=64, device=device),
        )
    batch = SimpleNamespace(tokens=torch.arange(3, 3 + TOKENS, device=device))
    cache = SimpleNamespace(layers=tuple(index / 4 for index in range(config.num_layers)))
    return model, cast(ForwardBatch, batch), cast(Cache, cache)


@pytest.mark.parametrize("name", ["llama-linear", "qwen2", "qwen3"])  # with all biases, with some, with none
@torch.inference_mode()
def test_pieces_give_what_the_layers_give(name: str, tmp_path: Path, device: torch.device) -> None:
    model, batch, cache = load(name, tmp_path / "model", device)
    calls = 0

    def block(residual: Tensor, attended: Tensor, between: Between) -> tuple[Tensor, Tensor]:
        nonlocal calls
        calls += 1
        return between_attentions(residual, attended, between)

    expected = model.hidden(batch, cache)
    found = torch.full_like(expected, torch.nan)
    CompiledLayers(model, block).hidden(batch, cache, found)
    assert calls == model.config.num_layers - 1 > 0
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_compiled_are_steps_of_five_to_512_tokens() -> None:
    assert [n for n in range(1, 1025) if CompiledLayers.takes(n)] == list(range(5, 513))
