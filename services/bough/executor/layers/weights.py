"""Where layers get their weights from while a model is built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionBackend
from bough.kernels.interface import Kernels, Linear, Norm


class TensorSource(Protocol):
    """Named tensors of a checkpoint."""

    def take(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The tensor of that name in the serving dtype; raises ModelError when it is missing or of another shape."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildContext:
    """What every layer of a model is built with."""

    weights: TensorSource
    kernels: Kernels
    attention: AttentionBackend
    max_context: int
    """Tokens a sequence may have: the length of the rotary table."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def norm(self, name: str, size: int, eps: float) -> Norm:
        """An RMS norm over `size` values."""
        return Norm(self.weights.take(f"{name}.weight", (size,)), eps)

    def linear(self, name: str, in_features: int, out_features: int, bias: bool = False) -> Linear:
        """One dense layer of the checkpoint."""
        return self.joint_linear([(name, out_features)], in_features, bias)

    def joint_linear(
        self, parts: list[tuple[str, int]], in_features: int, bias: bool = False, norm: Norm | None = None
    ) -> Linear:
        """Several dense layers with the same input as one, their outputs side by side.

        Args:
            parts: name and number of output features of each, in order.
            in_features: input features of all.
            bias: whether each has a bias.
            norm: of their input.
        """
        weights = [self._weight(name, in_features, size) for name, size in parts]
        biases = [self._bias(name, size, bias) for name, size in parts]
        joint_bias = torch.cat([b for b in biases if b is not None]) if bias else None
        return self.kernels.linear(weights[0] if len(weights) == 1 else torch.cat(weights), joint_bias, norm)

    def gated_linear(
        self, names: tuple[str, str], in_features: int, out_features: int, bias: bool = False, norm: Norm | None = None
    ) -> Linear:
        """`silu(gate(x)) * up(x)` of two layers of the checkpoint, x being the normed input."""
        gate, up = names
        return self.kernels.gated_linear(
            self._weight(gate, in_features, out_features),
            self._weight(up, in_features, out_features),
            self._bias(gate, out_features, bias),
            self._bias(up, out_features, bias),
            norm,
        )

    def _weight(self, name: str, in_features: int, out_features: int) -> Tensor:
        return self.weights.take(f"{name}.weight", (out_features, in_features))

    def _bias(self, name: str, size: int, present: bool) -> Tensor | None:
        return self.weights.take(f"{name}.bias", (size,)) if present else None
