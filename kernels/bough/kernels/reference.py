"""The operations in plain torch: the reference of every faster version, and what runs where none is to be had."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bough.kernels.interface import Linear


class TorchLinear:
    """A dense layer as torch computes it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        self.out_features = int(weight.shape[0])
        self._weight = weight
        self._bias = bias

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        return F.linear(x, self._weight, self._bias)

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32."""
        return F.linear(x, self._weight, self._bias).float()


class TorchKernels:
    """All operations in plain torch; see `Kernels` for what each computes."""

    name = "torch"

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Keep the weight as it is."""
        return TorchLinear(weight, bias)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Root-mean-square norm in float32."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        return weight * wide.to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Residual addition, then the norm."""
        residual += x
        return self.rms_norm(residual, weight, eps)

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """Gated activation."""
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate) * up
