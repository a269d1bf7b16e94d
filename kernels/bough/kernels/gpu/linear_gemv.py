"""Linear layers of one to four rows: each program streams rows of the weight through registers, no tensor cores.

At so few rows a product is as fast as its weight can be read. A program owns tiles of `block_n` weight rows, takes them
in chunks of `block_k` columns, and has the next chunk on its way while it sums up the present one; across the programs
of an SM that keeps more than the 32 KB in flight that full bandwidth needs. Sums over K run within threads first and
across the program last, so that a small N gives programs enough without splitting K among them.

Weights belong to no earlier kernel: with programmatic dependent launch the first chunk is under way before the program
waits for the kernel that writes `x`.
"""

# Triton's tuples are immutable and grow by being replaced, which a type checker cannot follow.
# mypy: disable-error-code="assignment"

from __future__ import annotations

from dataclasses import dataclass

import triton
import triton.language as tl

from bough.kernels.gpu.activation import silu_product
from bough.kernels.gpu.linear_operands import Operands, weight_rows
from bough.kernels.gpu.norm import inverse_rms, magnitudes, pdl_options, scale_rounded

MAX_ROWS = 4


@dataclass(frozen=True, slots=True)
class GemvConfig:
    """How the work is cut."""

    block_n: int
    """Weight rows of a tile; a power of two, of gate and up together if gated."""
    block_k: int
    """Columns of a chunk; a power of two."""
    num_warps: int
    max_programs: int = 1 << 30
    """Programs beyond which each takes several tiles, one after another."""


@triton.jit
def _load_chunk(
    weight_ptr,
    tile,
    chunk,
    OUT: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GATED: tl.constexpr,
):
    """Weights [BLOCK_N, BLOCK_K]; zero outside."""
    rows, exist = weight_rows(tile, OUT, BLOCK_N, GATED)
    columns = chunk * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    mask = exist[:, None]
    if K % BLOCK_K != 0:
        mask = mask & (columns < K)
    if 2 * OUT * K >= 2**31:
        rows = rows.to(tl.int64)
    return tl.load(weight_ptr + (rows[:, None] * K + columns), mask=mask, other=0.0, eviction_policy="evict_first")


@triton.jit
def _load_row(x_ptr, row, chunk, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """Values [1, BLOCK_K] of one row; zero outside."""
    columns = chunk * BLOCK_K + tl.arange(0, BLOCK_K)[None, :]
    return tl.load(x_ptr + row * K + columns, mask=columns < K, other=0.0)


@triton.jit
def _inverse(x_ptr, row, eps, K: tl.constexpr, BLOCK_K: tl.constexpr):
    """1 / RMS of a row [1, 1]."""
    squares = tl.zeros((1, BLOCK_K), tl.float64)
    for chunk in tl.static_range((K + BLOCK_K - 1) // BLOCK_K):
        wide = magnitudes(_load_row(x_ptr, row, chunk, K, BLOCK_K))
        squares += wide * wide
    return inverse_rms(tl.sum(squares, axis=1, keep_dims=True), eps, K)


@triton.jit
def _inputs(
    x_ptr, norm, inverses, chunk, K: tl.constexpr, BLOCK_K: tl.constexpr, ROWS: tl.constexpr, NORM: tl.constexpr
):
    """The rows' values [1, BLOCK_K] in a chunk, as a tuple; normed if asked for."""
    values = ()
    for row in tl.static_range(ROWS):
        x = _load_row(x_ptr, row, chunk, K, BLOCK_K).to(tl.float32)
        if NORM:
            x = scale_rounded(x, inverses[row], norm, x_ptr.dtype.element_ty)
        values += (x,)
    return values


@triton.jit
def _totals(sums, ROWS: tl.constexpr):
    """Sums [BLOCK_N, S] of each row to totals [BLOCK_N, ROWS rounded up to 1, 2 or 4], in one reduction."""
    if ROWS == 1:
        total = tl.sum(sums[0], axis=1, keep_dims=True)
    elif ROWS == 2:
        total = tl.sum(tl.join(sums[0], sums[1]), axis=1)
    else:
        last = sums[3] if ROWS == 4 else tl.zeros_like(sums[0])
        pairs = tl.join(tl.join(sums[0], sums[2]), tl.join(sums[1], last))
        total = tl.sum(tl.reshape(pairs, (sums[0].shape[0], sums[0].shape[1], 4)), axis=1)
    return total


@triton.jit
def _gemv_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    norm_ptr,
    out_ptr,
    eps,
    ROWS: tl.constexpr,
    OUT: tl.constexpr,
    K: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BIAS: tl.constexpr,
    NORM: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    PROGRAMS: tl.constexpr,
    PDL: tl.constexpr,
):
    """Out [ROWS, OUT] of x [ROWS, K]; a program takes every PROGRAMS-th tile, in steps of one chunk."""
    dtype = x_ptr.dtype.element_ty
    CHUNKS: tl.constexpr = (K + BLOCK_K - 1) // BLOCK_K
    TILES: tl.constexpr = (OUT * (2 if GATED else 1) + BLOCK_N - 1) // BLOCK_N
    SPACE: tl.constexpr = ROWS if ROWS < 3 else 4
    STEPS: tl.constexpr = (TILES + PROGRAMS - 1) // PROGRAMS * CHUNKS  # tiles beyond the last are masked
    first_tile = tl.program_id(0)
    coming = _load_chunk(weight_ptr, first_tile, 0, OUT, K, BLOCK_N, BLOCK_K, GATED)
    norm = _load_row(norm_ptr, 0, 0, K, BLOCK_K).to(tl.float32) if NORM else 0.0
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()

    inverses = ()
    for row in tl.static_range(ROWS):
        inverses += (_inverse(x_ptr, row, eps, K, BLOCK_K) if NORM else 0.0,)
    inputs = _inputs(x_ptr, norm, inverses, 0, K, BLOCK_K, ROWS, NORM)
    sums = ()
    for _ in tl.static_range(ROWS):
        sums += (tl.zeros((BLOCK_N, BLOCK_K // 8), tl.float32),)

    for step in tl.range(0, STEPS, num_stages=1):
        tile, chunk = first_tile + step // CHUNKS * PROGRAMS, step % CHUNKS
        row_at = tl.arange(0, SPACE)[None, :]
        rows, exist = weight_rows(tile, OUT, BLOCK_N, GATED)
        kept = exist[:, None] & (row_at < ROWS) & (chunk == CHUNKS - 1)
        # asked for before it is needed: at the end of a tile nothing would hide the way to memory
        before = tl.zeros((BLOCK_N, SPACE), tl.float32)
        if ADD:
            before = tl.load(out_ptr + row_at * OUT + rows[:, None], mask=kept, other=0.0).to(tl.float32)
        weights = coming.to(tl.float32)
        if STEPS > 1:
            next_tile = tl.where(step + 1 < STEPS, first_tile + (step + 1) // CHUNKS * PROGRAMS, TILES)
            coming = _load_chunk(weight_ptr, next_tile, (step + 1) % CHUNKS, OUT, K, BLOCK_N, BLOCK_K, GATED)
        if CHUNKS > 1:
            norm = _load_row(norm_ptr, 0, chunk, K, BLOCK_K).to(tl.float32) if NORM else 0.0
            inputs = _inputs(x_ptr, norm, inverses, chunk, K, BLOCK_K, ROWS, NORM)
        added = ()
        for row in tl.static_range(ROWS):
            products = tl.reshape(weights * inputs[row], (BLOCK_N, BLOCK_K // 8, 8))
            added += (sums[row] + tl.sum(products, axis=2),)
        sums = added
        if chunk == CHUNKS - 1:
            total = _totals(sums, ROWS)
            if BIAS:
                total += tl.load(bias_ptr + rows, mask=exist, other=0.0).to(tl.float32)[:, None]
            if GATED:
                pairs = tl.reshape(total.to(dtype).to(tl.float32), (BLOCK_N // 2, 2, SPACE))
                gate, up = tl.split(tl.permute(pairs, (0, 2, 1)))
                column = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)[:, None]
                result = silu_product(gate, up, dtype).to(dtype)
                tl.store(out_ptr + row_at * OUT + column, result, mask=(column < OUT) & (row_at < ROWS))
            else:
                if ADD:
                    total = before + total.to(dtype).to(tl.float32)
                result = total.to(out_ptr.dtype.element_ty)
                tl.store(out_ptr + row_at * OUT + rows[:, None], result, mask=kept)
            cleared = ()
            for row in tl.static_range(ROWS):
                cleared += (tl.zeros_like(sums[row]),)
            sums = cleared


def launch(operands: Operands, config: GemvConfig, *, pdl: bool) -> None:
    """Compute the product of checked operands of at most `MAX_ROWS` rows; see `linear_small.small_linear`."""
    tiles = triton.cdiv(operands.weight.shape[0], config.block_n)
    programs = min(tiles, config.max_programs)
    _gemv_kernel[(programs,)](
        operands.x,
        operands.weight,
        operands.weight if operands.bias is None else operands.bias,
        operands.weight if operands.norm is None else operands.norm,
        operands.out,
        operands.eps,
        ROWS=operands.x.shape[0],
        OUT=operands.out.shape[1],
        K=operands.x.shape[1],
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        BIAS=operands.bias is not None,
        NORM=operands.norm is not None,
        GATED=operands.gated,
        ADD=operands.add,
        PROGRAMS=programs,
        PDL=pdl,
        num_warps=config.num_warps,
        **pdl_options(pdl),
    )
