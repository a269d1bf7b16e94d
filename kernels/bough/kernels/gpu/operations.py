"""The operations of a transformer block on a GPU: cuBLAS for large products, kernels of our own for everything else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bough.kernels.gpu.activation import silu_mul
from bough.kernels.gpu.norm import rms_norm
from bough.kernels.interface import Linear, Norm


class GpuLinear:
    """A weight [out, in] as it lies in the checkpoint; see `Linear`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, norm: Norm | None, *, gated: bool = False) -> None:
        self._weight = weight
        self._bias = bias
        self._norm = norm
        self._gated = gated

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        out = F.linear(self._normed(x), self._weight, self._bias)
        return silu_mul(out) if self._gated else out

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the result into the residual, within the product."""
        residual.addmm_(self._normed(x), self._weight.t())
        if self._bias is not None:
            residual += self._bias

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32, not rounded on the way."""
        x, weight = self._normed(x), self._weight.t()
        return torch.mm(x, weight) if x.dtype == torch.float32 else torch.mm(x, weight, out_dtype=torch.float32)

    def _normed(self, x: Tensor) -> Tensor:
        return x if self._norm is None else rms_norm(x, self._norm.weight, self._norm.eps)


class GpuKernels:
    """See `Kernels`."""

    name = "gpu"

    def embed(self, table: Tensor, tokens: Tensor, out: Tensor | None = None) -> Tensor:
        """Look tokens up."""
        return torch.index_select(table, 0, tokens, out=out)

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Pick rows."""
        return torch.index_select(x, 0, rows)

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """Root-mean-square norm in one kernel."""
        return rms_norm(x, norm.weight, norm.eps)

    def linear(self, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Linear:
        """Keep the weight as it is."""
        return GpuLinear(weight, bias, norm)

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
        return GpuLinear(torch.cat((gate, up)), bias, norm, gated=True)
