"""The operations a transformer block is made of, as every implementation provides them."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Linear(Protocol):
    """A weight matrix in whatever form an implementation likes, ready to be multiplied with.

    Its owner sees no weight: it may be packed, and later sharded or quantised.
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

    def embed(self, table: Tensor, tokens: Tensor) -> Tensor:
        """Rows of `table` [vocab, D] for tokens [T] int64."""
        ...

    def take_rows(self, x: Tensor, rows: Tensor) -> Tensor:
        """Rows [S] int64 of `x` [T, D]."""
        ...

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """`x / sqrt(mean(x^2) + eps) * weight` over the last dimension, in float32 inside; x is [T, D]."""
        ...

    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Linear:
        """Prepare a weight [out, in] and a bias [out] for multiplication."""
        ...

    def gated_linear(
        self, gate: Tensor, up: Tensor, gate_bias: Tensor | None = None, up_bias: Tensor | None = None
    ) -> Linear:
        """Prepare `silu(gate(x)) * up(x)` of two weights [out, in] as one product; only calls are defined on it."""
        ...
