"""The operands of a product for few rows, checked once for every kernel that computes it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.norm import require

_HALVES = (torch.bfloat16, torch.float16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operands:
    """What a kernel reads and writes; all contiguous, on one device."""

    x: Tensor
    """[M, K], bfloat16 or float16."""
    weight: Tensor
    """[N, K], dtype of x; if gated the gates' rows come first, then as many of the ups'."""
    bias: Tensor | None
    """[N], dtype of x; added in float32 before any rounding."""
    norm: Tensor | None
    """[K], weight of an RMS norm that x goes through first."""
    eps: float
    gated: bool
    """Whether the result is silu(gate) * up."""
    add: bool
    """Whether the rounded product is added into `out` rather than stored there."""
    out: Tensor
    """[M, N], or [M, N / 2] if gated; dtype of x, or float32 for an unrounded product."""

    def check(self) -> None:
        """Raise ValueError for what no kernel takes."""
        x, weight, out = self.x, self.weight, self.out
        require(x.dim() == 2 and x.shape[0] > 0 and x.is_contiguous(), "x must be [M, K], M > 0, and contiguous")
        require(x.dtype in _HALVES, "x must be bfloat16 or float16")
        require(weight.dim() == 2 and weight.shape[1] == x.shape[1], "weight must be [N, K]")
        require(weight.dtype == x.dtype and weight.is_contiguous(), "weight must be contiguous, with the dtype of x")
        require(weight.data_ptr() % 16 == 0 and x.data_ptr() % 16 == 0, "x and weight must be aligned to 16 bytes")
        require(x.shape[1] % 8 == 0, "K must be a multiple of 8")
        for name, vector, size in (("bias", self.bias, weight.shape[0]), ("norm", self.norm, x.shape[1])):
            if vector is not None:
                require(vector.shape == (size,) and vector.is_contiguous(), f"{name} must be [{size}] and contiguous")
                require(vector.dtype == x.dtype, f"{name} must have the dtype of x")
        require(not self.gated or weight.shape[0] % 2 == 0, "a gated weight must hold as many gates as ups")
        width = weight.shape[0] // 2 if self.gated else weight.shape[0]
        require(out.shape == (x.shape[0], width) and out.is_contiguous(), f"out must be [M, {width}] and contiguous")
        wide = out.dtype == torch.float32 and not self.gated and not self.add
        require(out.dtype == x.dtype or wide, "out must have the dtype of x, or be a plain product in float32")
        require(not (self.gated and self.add), "a gated product cannot be added to a residual")


@triton.jit
def weight_rows(tile, OUT: tl.constexpr, BLOCK_N: tl.constexpr, GATED: tl.constexpr):
    """Rows [BLOCK_N] of the weight that a tile holds, and which of them exist. Gates and ups alternate."""
    local = tl.arange(0, BLOCK_N)
    if GATED:
        column = tile * (BLOCK_N // 2) + local // 2
        rows = column + (local % 2) * OUT
    else:
        column = tile * BLOCK_N + local
        rows = column
    return rows, column < OUT
