"""The operations a transformer block is made of, as every implementation provides them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm: `x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32 inside."""

    weight: Tensor
    """[D]"""
    eps: float


class Linear(Protocol):
    """A weight matrix in whatever form an implementation likes, ready to be multiplied with.

    Its owner sees no weight: it may be packed, and later sharded or quantised. With a norm, what it multiplies is the
    normed input; an implementation may do both at once.
    """

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in the dtype of `x`."""
        ...

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add what `x` [T, in] maps to into `residual` [T, out], in place."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32, whatever the dtype of `x`."""
        ...


class Kernels(Protocol):
    """One implementation of the operations; results are new tensors unless said otherwise."""

    name: str

    def embed(self, table: Tensor, tokens: Tensor, out: Tensor | None = None) -> Tensor:
        """Rows of `table` [vocab, D] for tokens [T] int64, written to `out` [T, D] if given."""
        ...

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rows [S] int64 of `x` [T, D]."""
        ...

    def rms_norm(self, x: Tensor, norm: Norm) -> Tensor:
        """The norm of each row of x [T, D]."""
        ...

    def linear(self, weight: Tensor, bias: Tensor | None = None, norm: Norm | None = None) -> Linear:
        """Prepare a weight [out, in] and a bias [out] for multiplication with (normed) inputs."""
        ...

    def gated_linear(
        self,
        gate: Tensor,
        up: Tensor,
        gate_bias: Tensor | None = None,
        up_bias: Tensor | None = None,
        norm: Norm | None = None,
    ) -> Linear:
        """Prepare `silu(gate(x)) * up(x)` of two weights [out, in] as one product; only calls are defined on it."""
        ...


class NormedLinear:
    """A norm, then a linear layer, as two operations: for implementations that have nothing better."""

    def __init__(self, kernels: Kernels, norm: Norm, linear: Linear) -> None:
        self._kernels = kernels
        self._norm = norm
        self._linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out]."""
        return self._linear(self._kernels.rms_norm(x, self._norm))

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add the result into the residual."""
        self._linear.add_to(residual, self._kernels.rms_norm(x, self._norm))

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32."""
        return self._linear.logits(self._kernels.rms_norm(x, self._norm))
