"""Root-mean-square norm (Zhang and Sennrich 2019), alone and after a residual sum.

The sum of squares is kept in float64. Squares of bfloat16 values are exact there, and so is their sum as long as the
values that matter lie within some 2^14 of one another: it does not depend on the order of summation, and every kernel
that norms a row (`bough.kernels.gpu.linear_gemv`, `attention_heads`) gets the same bits as this one.

A multiprocessor converts to float64 at a quarter of the rate at which it multiplies there, and the compiler puts one
conversion after another; `magnitudes` makes float64 values of bfloat16 ones by moving their bits instead.
"""

from __future__ import annotations

from typing import NamedTuple

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
def magnitudes(x):
    """|x| in float64; of bfloat16 without a conversion.

    The bits of a bfloat16 value are moved to where float64 has exponent and fraction, and the exponent's bias is made
    up for. What lies below the normal numbers, zero included, comes out as 2^-127 to 2^-126, whose square is nothing
    beside `eps` or any other; infinity and NaN come out above 2^127, whose square has no finite float32, so that
    `inverse_rms` is zero and their products are NaN.
    """
    if x.dtype == tl.bfloat16:
        bits = x.to(tl.uint16, bitcast=True).to(tl.uint64)
        # 45 bits more of fraction; 1023 - 127
        wide = (((bits & 0x7FFF) << 45) + (896 << 52)).to(tl.float64, bitcast=True)
    else:
        wide = tl.abs(x.to(tl.float64))
    return wide


@triton.jit
def inverse_rms(sum_of_squares, eps, WIDTH: tl.constexpr):
    """1 / sqrt(mean + eps) in float32, of a float64 sum of squares over WIDTH values."""
    return tl.rsqrt((sum_of_squares * (1.0 / WIDTH)).to(tl.float32) + eps)


@triton.jit
def scale_rounded(x, inverse, weight, dtype: tl.constexpr):
    """`weight * (x * inverse)`, each product rounded to dtype; float32 in and out. Where transformers rounds."""
    normed = (x * inverse).to(dtype).to(tl.float32)
    return (weight * normed).to(dtype).to(tl.float32)


@triton.jit(do_not_specialize=["rows"])
def _rms_norm_kernel(
    x_ptr,
    delta_ptr,
    weight_ptr,
    out_ptr,
    rows,
    eps,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
):
    """A program norms ROWS rows, [ROWS, BLOCK]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    columns = tl.arange(0, BLOCK)[None, :]
    inside = columns < WIDTH
    dtype = out_ptr.dtype.element_ty
    weight = tl.load(weight_ptr + columns, mask=inside, other=0.0).to(tl.float32)
    if PDL:  # the weight belongs to nobody before us; all else may still be being written
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if ROWS > 1:
        inside = inside & (row < rows)
    at = row.to(tl.int64) * WIDTH + columns
    x = tl.load(x_ptr + at, mask=inside, other=0.0)
    if ADD:
        x = (x.to(tl.float32) + tl.load(delta_ptr + at, mask=inside, other=0.0).to(tl.float32)).to(dtype)
        tl.store(x_ptr + at, x, mask=inside)
    wide = magnitudes(x)
    inverse = inverse_rms(tl.sum(wide * wide, axis=1, keep_dims=True), eps, WIDTH)
    tl.store(out_ptr + at, scale_rounded(x.to(tl.float32), inverse, weight, dtype).to(dtype), mask=inside)


class NormConfig(NamedTuple):
    """How the work is cut; it changes no bit of the result."""

    rows: int
    """Rows of a program; a power of two."""
    num_warps: int


def default_config(width: int) -> NormConfig:
    """Two 16-byte loads of bfloat16 a thread."""
    return NormConfig(1, min(max(triton.next_power_of_2(width) // 512, 1), 16))


def rms_norm(
    x: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor | None = None,
    *,
    config: NormConfig | None = None,
    pdl: bool = False,
) -> Tensor:
    """Norm each row: `weight * (x / sqrt(mean(x^2) + eps))`, float32 inside, rounded where transformers rounds.

    Args:
        x: [T, D], contiguous, float32, float16 or bfloat16.
        weight: [D], dtype of x.
        eps: added to the mean of squares.
        out: [T, D] to write to, which may be `x`; a new tensor if None.
        config: how to cut the work; the default for the width if None.
        pdl: launch as a programmatic dependent of the kernel before it in the stream.

    Raises:
        ValueError: a shape, dtype or layout that the kernel does not take.
    """
    _check(x, weight, out)
    out = torch.empty_like(x) if out is None else out
    _launch(x, x, weight, out, eps, config, add=False, pdl=pdl)
    return out


def add_rms_norm(
    residual: Tensor,
    delta: Tensor,
    weight: Tensor,
    eps: float,
    out: Tensor | None = None,
    *,
    config: NormConfig | None = None,
    pdl: bool = False,
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
    _launch(residual, delta, weight, out, eps, config, add=True, pdl=pdl)
    return out


def _check(x: Tensor, weight: Tensor, out: Tensor | None) -> None:
    require(x.dim() == 2 and x.is_contiguous(), "x must be [T, D] and contiguous")
    require(x.dtype in _FLOATS, "x must be float32, float16 or bfloat16")
    require(x.shape[1] <= _MAX_WIDTH, f"rows may have {_MAX_WIDTH} values at most")
    require(weight.shape == x.shape[1:] and weight.is_contiguous(), "weight must be [D] and contiguous")
    require(weight.dtype == x.dtype, "weight must have the dtype of x")
    if out is not None:
        require(out.shape == x.shape and out.dtype == x.dtype and out.is_contiguous(), "out must be like x")


def _launch(
    x: Tensor,
    delta: Tensor,
    weight: Tensor,
    out: Tensor,
    eps: float,
    config: NormConfig | None,
    *,
    add: bool,
    pdl: bool,
) -> None:
    rows, width = x.shape
    if rows == 0:
        return
    config = config or default_config(width)
    _rms_norm_kernel[(triton.cdiv(rows, config.rows),)](
        x,
        delta,
        weight,
        out,
        rows,
        eps,
        WIDTH=width,
        BLOCK=triton.next_power_of_2(width),
        ROWS=config.rows,
        ADD=add,
        PDL=pdl,
        num_warps=config.num_warps,
        **pdl_options(pdl),
    )


def pdl_options(pdl: bool) -> dict[str, bool]:
    """Options of a launch with or without programmatic dependence; Triton's interpreter knows no such option."""
    return {"launch_pdl": True} if pdl else {}
