"""Gated activations."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.norm import pdl_options, require

_BLOCK = 1024


@triton.jit
def silu_product(gate, up, dtype: tl.constexpr):
    """`silu(gate) * up` of float32 values already rounded to dtype, rounded where torch rounds; float32 out."""
    # beyond exp(88) lies infinity in float32; the quotient is zero either way
    activated = (gate / (1.0 + tl.exp(tl.minimum(-gate, 88.0)))).to(dtype).to(tl.float32)
    return (activated * up).to(dtype).to(tl.float32)


@triton.jit
def _silu_mul_kernel(gate_up_ptr, out_ptr, WIDTH: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = columns < WIDTH
    dtype = out_ptr.dtype.element_ty
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    gate_ptrs = gate_up_ptr + row * (2 * WIDTH) + columns
    gate = tl.load(gate_ptrs, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_ptrs + WIDTH, mask=inside, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * WIDTH + columns, silu_product(gate, up, dtype).to(dtype), mask=inside)


def silu_mul(gate_up: Tensor, out: Tensor | None = None, *, pdl: bool = False) -> Tensor:
    """`silu(gate) * up`; silu in float32, rounded to the dtype before the product, as torch does.

    Args:
        gate_up: [T, 2 * I], contiguous, gate first; float32, float16 or bfloat16.
        out: [T, I] to write to; a new tensor if None.
        pdl: launch as a programmatic dependent of the kernel before it in the stream.

    Raises:
        ValueError: a shape, dtype or layout that the kernel does not take.
    """
    require(gate_up.dim() == 2 and gate_up.is_contiguous(), "gate_up must be [T, 2 * I] and contiguous")
    require(gate_up.shape[1] % 2 == 0, "gate_up must hold as many gates as ups")
    require(gate_up.dtype in (torch.bfloat16, torch.float16, torch.float32), "gate_up must be a float tensor")
    rows, width = gate_up.shape[0], gate_up.shape[1] // 2
    if out is None:
        out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
    require(out.shape == (rows, width) and out.dtype == gate_up.dtype, "out must be [T, I] in the dtype of gate_up")
    require(out.is_contiguous(), "out must be contiguous")
    if rows:
        grid = (rows, triton.cdiv(width, _BLOCK))
        _silu_mul_kernel[grid](gate_up, out, WIDTH=width, BLOCK=_BLOCK, PDL=pdl, num_warps=4, **pdl_options(pdl))
    return out
