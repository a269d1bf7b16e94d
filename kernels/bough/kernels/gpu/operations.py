"""The operations of a transformer block on a GPU: cuBLAS for large products, kernels of our own for everything else."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bough.kernels.gpu.activation import silu_mul
from bough.kernels.gpu.compiled import Dense
from bough.kernels.gpu.linear_config import pays
from bough.kernels.gpu.linear_dot import Workspace
from bough.kernels.gpu.linear_small import fits, small_linear
from bough.kernels.gpu.norm import rms_norm
from bough.kernels.interface import Linear, Norm


class GpuLinear:
    """A weight [out, in] as it lies in the checkpoint; see `Linear`.

    Few rows are multiplied by kernels of our own, which read the weights at the speed of the memory and take activation
    and residual along; more rows by cuBLAS.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        norm: Norm | None,
        workspace: Workspace,
        *,
        gated: bool = False,
        pdl: bool = False,
    ) -> None:
        self._weight = weight
        self._bias = bias
        self._norm = norm
        self._workspace = workspace
        self._gated = gated
        self._pdl = pdl

    @property
    def dense(self) -> Dense:
        """The weights, for the compiled way; see `bough.kernels.gpu.compiled`."""
        norm = self._norm
        return Dense(self._weight, self._bias, None if norm is None else norm.weight, 0.0 if norm is None else norm.eps)

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        if self._is_small(x):
            return self._small(x)
        out = F.linear(self._normed(x), self._weight, self._bias)
        return silu_mul(out, pdl=self._pdl) if self._gated else out

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the result into the residual, within the product."""
        if self._is_small(x):
            self._small(x, residual=residual)
            return
        residual.addmm_(self._normed(x), self._weight.t())
        if self._bias is not None:
            residual += self._bias

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32, not rounded on the way."""
        if self._is_small(x):
            return self._small(x, out_dtype=torch.float32)
        x, weight = self._normed(x), self._weight.t()
        return torch.mm(x, weight) if x.dtype == torch.float32 else torch.mm(x, weight, out_dtype=torch.float32)

    def _normed(self, x: Tensor) -> Tensor:
        return x if self._norm is None else rms_norm(x, self._norm.weight, self._norm.eps, pdl=self._pdl)

    def _is_small(self, x: Tensor) -> bool:
        rows, (outputs, depth) = x.shape[0], self._weight.shape
        return fits(rows, outputs, depth, x.dtype) and pays(rows, outputs, depth, self._gated)

    def _small(self, x: Tensor, *, residual: Tensor | None = None, out_dtype: torch.dtype | None = None) -> Tensor:
        return small_linear(
            x,
            self._weight,
            self._bias,
            norm=self._norm,
            gated=self._gated,
            residual=residual,
            out_dtype=out_dtype,
            workspace=self._workspace,
            pdl=self._pdl,
        )


class GpuKernels:
    """See `Kernels`.

    Args:
        device: The GPU.
        pdl: Whether to launch kernels while the one before them ends (sm_90).
    """

    name = "gpu"

    def __init__(self, device: torch.device, *, pdl: bool) -> None:
        self._workspace = Workspace(device)
        self._pdl = pdl

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
        return GpuLinear(weight, bias, norm, self._workspace, pdl=self._pdl)

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
        return GpuLinear(torch.cat((gate, up)), bias, norm, self._workspace, gated=True, pdl=self._pdl)
