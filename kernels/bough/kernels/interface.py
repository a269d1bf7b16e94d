"""The operations a transformer block is made of, as every implementation provides them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Linear(Protocol):
    """A weight matrix in whatever form an implementation likes, ready to be multiplied with.

    The owner sees only `out_features`; the weight may be packed, and later sharded or quantised.
    """

    out_features: int

    def __call__(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in the dtype of `x`."""
        ...

    def logits(self, x: Tensor) -> Tensor:
        """Map [T, in] to [T, out] in float32, without rounding the sums to the dtype of `x`."""
        ...


class Kernels(Protocol):
    """One implementation of the operations; results are new tensors unless said otherwise."""

    name: str

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Prepare a weight [out, in] and a bias [out] for multiplication."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32 inside; x is [T, D]."""
        ...

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Add `x` into `residual` (in place; both [T, D]) and return the RMS norm of the sum."""
        ...

    def silu_mul(self, gate_up: Tensor) -> Tensor:
        """`silu(gate) * up` of [T, 2 * D] whose first half is gate; returns [T, D]."""
        ...
