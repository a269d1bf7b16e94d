"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig


class GatedMLP:
    """`down(silu(gate(x)) * up(x))`."""

    def __init__(self, build: BuildContext, name: str, config: ModelConfig) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        self._gate_up = build.gated_linear(f"{name}.gate_proj", f"{name}.up_proj", hidden, inner, config.mlp_bias)
        self._down = build.linear(f"{name}.down_proj", inner, hidden, config.mlp_bias)

    def add_to(self, hidden: Tensor, x: Tensor) -> None:
        """Add the block's output for `x` into `hidden`, both [T, hidden]."""
        self._down.add_to(hidden, self._gate_up(x))
