"""Qwen3 (dense): Llama with an RMS norm on each query and key head."""

from __future__ import annotations

from torch import Tensor

from bough.executor.layers.weights import BuildContext
from bough.executor.models.llama import LlamaForCausalLM


class Qwen3ForCausalLM(LlamaForCausalLM):
    """Head norms come before the rotation and share their weight between heads."""

    def _head_norms(self, build: BuildContext, name: str) -> tuple[Tensor, Tensor]:
        size = self.config.head_dim
        return build.norm(f"{name}.q_norm", size), build.norm(f"{name}.k_norm", size)
