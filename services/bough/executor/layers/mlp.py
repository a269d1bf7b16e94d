"""The gated feed-forward block."""

from __future__ import annotations

from torch import Tensor

from bough.executor.layers.weights import BuildContext
from bough.executor.models.config import ModelConfig
from bough.kernels.interface import Norm


class GatedMLP:
    """`down(silu(gate(x)) * up(x))` of the normed input; `gate_up` and `down` are its projections."""

    def __init__(self, build: BuildContext, name: str, config: ModelConfig, norm: Norm) -> None:
        hidden, inner = config.hidden_size, config.intermediate_size
        names = (f"{name}.gate_proj", f"{name}.up_proj")
        self.gate_up = build.gated_linear(names, hidden, inner, config.mlp_bias, norm)
        self.down = build.linear(f"{name}.down_proj", inner, hidden, config.mlp_bias)

    def add_to(self, hidden: Tensor) -> None:
        """Add the block's output for `hidden` [T, hidden] into it."""
        self.down.add_to(hidden, self.gate_up(hidden))
