"""Norm weights that are in those of the layer behind leave the model what it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import Cache, LayerCache
from bough.executor.layers.weights import BuildContext
from bough.executor.loader import Checkpoint
from bough.executor.models.config import ModelConfig
from bough.executor.models.llama import LlamaForCausalLM
from bough.executor.models.registry import build_model
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels
from tests.helpers.checkpoints import TINY, write_checkpoint


class LastHeads:
    """Stands for an attention: the last heads of a token."""

    name = "last heads"

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        return qkv[:, -spec.num_heads * spec.head_dim :].contiguous()


class FoldingKernels(TorchKernels):
    """Plain torch that asks for folded norms, and notes which norms it gets."""

    folds_norms = True

    def __init__(self) -> None:
        super().__init__()
        self.unit: list[bool] = []

    def linear(self, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Any:
        if norm is not None:
            self.unit.append(norm.unit)
        return super().linear(weight, bias, norm)


@contextmanager
def built(model_dir: Path, kernels: TorchKernels) -> Iterator[LlamaForCausalLM]:
    with Checkpoint(model_dir, torch.float32, lambda fraction, what: None) as weights:
        context = BuildContext(weights=weights, kernels=kernels, attention=LastHeads(), max_context=64)
        yield build_model(ModelConfig.read(model_dir), context)


@pytest.mark.parametrize("name", TINY)
@torch.inference_mode()
def test_a_model_with_folded_norms_has_the_same_logits(name: str, tmp_path: Path) -> None:
    model_dir = write_checkpoint(name, tmp_path / "model")
    kernels = FoldingKernels()
    batch = cast(ForwardBatch, SimpleNamespace(tokens=torch.arange(3, 11)))
    found = []
    for each in (TorchKernels(), kernels):
        with built(model_dir, each) as model:
            cache = cast(Cache, SimpleNamespace(layers=(None,) * model.config.num_layers))
            found.append(model.logits(model.hidden(batch, cache), None))
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-4)
    # the head may share its weight with the embedding, which must stay as it is
    assert kernels.unit == [True] * (len(kernels.unit) - 1) + [False]
