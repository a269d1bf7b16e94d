"""The operations in plain torch: the reference of every faster version, and what runs where none is to be had."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bough.kernels.interface import Linear, Norm, NormedLinear


class TorchLinear:
    """A dense layer as torch computes it."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None, gated: bool = False) -> None:
        self._weight = weight
        self._bias = bias
        self._gated = gated

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        out = F.linear(x, self._weight, self._bias)
        if not self._gated:
            return out
        gate, up = out.chunk(2, dim=-1)
        return F.silu(gate) * up

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the result into the residual."""
        residual += self(x)

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32."""
        return self(x).float()


class TorchKernels:
    """All operations in plain torch; see `Kernels` for what each computes."""

    name = "torch"

    def embed(self, table: Tensor, tokens: Tensor, out: Tensor | None = None) -> Tensor:
        """Look tokens up."""
        return torch.index_select(table, 0, tokens, out=out)

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Pick rows."""
        return x[rows]

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Root-mean-square norm in float32."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + norm.eps)
        return norm.weight * wide.to(x.dtype)

    def linear(self, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Linear:
        """Keep the weight as it is."""
        return self._normed(TorchLinear(weight, bias), norm)

    def gated_linear(
        self,
        gate: Tensor,
        up: Tensor,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        norm: Norm | None = None,
    ) -> Linear:
        """One product for both, gate first."""
        bias = None if gate_bias is None or up_bias is None else torch.cat((gate_bias, up_bias))
        return self._normed(TorchLinear(torch.cat((gate, up)), bias, gated=True), norm)

    def _normed(self, linear: Linear, norm: Norm | None) -> Linear:
        return linear if norm is None else NormedLinear(self, norm, linear)
