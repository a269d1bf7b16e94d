"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig


class GatedMLP:
    """`down(silu(gate(x)) * up(x))`, gate and up as one product."""

    def __init__(self, build: BuildContext, name: str, config: ModelConfig) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        self._silu_mul = build.kernels.silu_mul
        self._gate_up = build.joint_linear(
            [(f"{name}.gate_proj", inner), (f"{name}.up_proj", inner)], hidden, config.mlp_bias
        )
        self._down = build.linear(f"{name}.down_proj", inner, hidden, config.mlp_bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, hidden] to [T, hidden]."""
        return self._down(self._silu_mul(self._gate_up(x)))
