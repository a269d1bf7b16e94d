"""Root-mean-square norm (Zhang and Sennrich 2019), alone and after a residual sum.

The sum of squares is kept in float64. Squares of bfloat16 values are exact there, and so is their sum as long as the
values that matter lie within some 2^14 of one another: it does not depend on the order of summation, and every kernel
that norms a row (`bough.kernels.gpu.linear_gemv`, `linear_dot`) gets the same bits as this one.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_MAX_WIDTH = 32_768
_FLOATS = (torch.bfloat16, torch.float16, torch.float32)


def require(condition: bool, rule: str) -> None:
    """Raise ValueError with the rule that a launcher's argument broke."""
    if not condition:
        raise ValueError(rule)


@triton.jit
def inverse_rms(sum_of_squares, eps, WIDTH: tl.constexpr):
    """1 / sqrt(mean + eps) in float32, of a float64 sum of squares over WIDTH values."""
    return tl.rsqrt((sum_of_squares * (1.0 / WIDTH)).to(tl.float32) + eps)


@triton.jit
def scale_rounded(x, inverse, weight, dtype: tl.constexpr):
    """`weight * (x * inverse)`, each product rounded to dtype; float32 in and out. Where transformers rounds."""
    normed = (x * inverse).to(dtype).to(tl.float32)
    return (weight * normed).to(dtype).to(tl.float32)


@triton.jit
def _rms_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    out_ptr,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dtype = out_ptr.dtype.element_ty
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:  # the weight belongs to nobody before us; all else may still be being written
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = row * WIDTH + columns
    x = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
    if ADD:
        x += tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)
        x = x.to(dtype).to(tl.float32)
        tl.store(x_ptr + at, x.to(dtype), mask=inside)
    wide = x.to(tl.float64)
    inverse = inverse_rms(tl.sum(wide * wide, axis=0), eps, WIDTH)
    tl.store(out_ptr + at, scale_rounded(x, inverse, weight, dtype).to(dtype), mask=inside)


def rms_norm(x: Tensor, weight: Tensor, eps: float, out: Tensor | None = None, *, pdl: bool = False) -> Tensor:
    """Norm each row: `weight * (x / sqrt(mean(x^2) + eps))`, float32 inside, rounded where transformers rounds.

    Args:
        x: [T, D], contiguous, float32, float16 or bfloat16.
        weight: [D], dtype of x.
        eps: added to the mean of squares.
        out: [T, D] to write to, which may be `x`; a new tensor if None.
        pdl: launch as a programmatic dependent of the kernel before it in the stream.

    Raises:
        ValueError: a shape, dtype or layout that the kernel does not take.
    """
    _check(x, weight, out)
    out = torch.empty_like(x) if out is None else out
    _launch(x, x, weight, out, eps, add=False, pdl=pdl)
    return out


def add_rms_norm(
    residual: Tensor, delta: Tensor, weight: Tensor, eps: float, out: Tensor | None = None, *, pdl: bool = False
) -> Tensor:
    """Add `delta` [T, D] into `residual` [T, D] in place, and return the norm of the sum; see `rms_norm`.

    `out` may be `delta`, but not `residual`.

    Raises:
        ValueError: a shape, dtype or layout that the kernel does not take.
    """
    _check(residual, weight, out)
    require(delta.shape == residual.shape and delta.dtype == residual.dtype, "delta must be like residual")
    require(delta.is_contiguous(), "delta must be contiguous")
    out = torch.empty_like(residual) if out is None else out
    _launch(residual, delta, weight, out, eps, add=True, pdl=pdl)
    return out


def _check(x: Tensor, weight: Tensor, out: Tensor | None) -> None:
    require(x.dim() == 2 and x.is_contiguous(), "x must be [T, D] and contiguous")
    require(x.dtype in _FLOATS, "x must be float32, float16 or bfloat16")
    require(x.shape[1] <= _MAX_WIDTH, f"rows may have {_MAX_WIDTH} values at most")
    require(weight.shape == x.shape[1:] and weight.is_contiguous(), "weight must be [D] and contiguous")
    require(weight.dtype == x.dtype, "weight must have the dtype of x")
    if out is not None:
        require(out.shape == x.shape and out.dtype == x.dtype and out.is_contiguous(), "out must be like x")


def _launch(x: Tensor, delta: Tensor, weight: Tensor, out: Tensor, eps: float, *, add: bool, pdl: bool) -> None:
    rows, width = x.shape
    if rows == 0:
        return
    block = triton.next_power_of_2(width)
    _rms_norm_kernel[(rows,)](
        x,
        delta,
        weight,
        out,
        eps,
        WIDTH=width,
        BLOCK=block,
        ADD=add,
        PDL=pdl,
        num_warps=min(max(block // 512, 1), 16),  # two 16-byte loads of bfloat16 a thread
        **pdl_options(pdl),
    )


def pdl_options(pdl: bool) -> dict[str, bool]:
    """Options of a launch with or without programmatic dependence; Triton's interpreter knows no such option."""
    return {"launch_pdl": True} if pdl else {}
