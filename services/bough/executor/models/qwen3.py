"""Qwen3 (dense): Llama with an RMS norm on each query and key head."""

from __future__ import annotations

from bough.executor.layers.weights import BuildContext
from bough.executor.models.llama import LlamaForCausalLM
from bough.kernels.interface import Norm


class Qwen3ForCausalLM(LlamaForCausalLM):
    """Head norms come before the rotation and share their weight between heads."""

    def _head_norms(self, build: BuildContext, name: str) -> tuple[Norm, Norm]:
        size, eps = self.config.head_dim, self.config.rms_norm_eps
        return build.norm(f"{name}.q_norm", size, eps), build.norm(f"{name}.k_norm", size, eps)
