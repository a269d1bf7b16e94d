"""Linear layers of a few to 64 rows on tensor cores, the weight streamed through shared memory.

The product is computed transposed: weight rows are the tall side that a tensor core instruction wants (64), the few
rows of x its narrow one, so nothing is padded beyond 16 rows. Where N alone gives too few programs, K is split among
them: each writes its part to a workspace, and the last to arrive at a tile adds the parts in their order (the ordered
counterpart of the fix-up of Stream-K, Osama et al. 2023), so that a result depends on nothing but its operands.

A norm is not part of it: each of some hundred programs would do it again, which cost more than it saved.

With programmatic dependent launch a program asks for its weights in L2 before it waits for the kernel
that writes `x`; all that another kernel may still use (x, the residual, the workspace) is touched after the wait only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from bough.kernels.gpu.activation import silu_product
from bough.kernels.gpu.linear_operands import Operands, weight_rows
from bough.kernels.gpu.norm import pdl_options, require

MAX_ROWS = 64
_LINE = 64  # values of a cache line
_PREFETCH_LINES = 16
_PARTIALS = 1 << 23
_TILES = 4096


@dataclass(frozen=True, slots=True)
class DotConfig:
    """How the work is cut."""

    block_n: int
    """Weight rows of a tile; a power of two, at least 16, of gate and up together if gated."""
    block_k: int
    """Columns of a chunk; a power of two, at least 16."""
    splits: int
    """Programs that share a tile, each with its range of chunks."""
    num_stages: int
    """Chunks in shared memory at once."""
    num_warps: int = 4


class Workspace:
    """Memory for the parts of split products: one for all products of a stream, never for two streams at once."""

    def __init__(self, device: torch.device) -> None:
        self.partials = torch.empty(_PARTIALS, dtype=torch.float32, device=device)
        # arrivals at each tile; whoever comes last sets them back
        self.arrived = torch.zeros(_TILES, dtype=torch.int32, device=device)

    def check(self, tiles: int, values: int) -> None:
        """Raise ValueError if so many tiles, or values of parts, do not fit."""
        require(tiles <= self.arrived.numel(), f"a split product may have {self.arrived.numel()} tiles at most")
        require(values <= self.partials.numel(), "the parts of the product exceed the workspace: split less")


@triton.jit
def _prefetch(weight_ptr, rows, exist, first_column, K: tl.constexpr, COLUMNS: tl.constexpr, LINES: tl.constexpr):
    """Ask for the first LINES cache lines of each weight row's range in L2; beyond the range nothing is asked for."""
    LINE: tl.constexpr = 64
    offset = tl.arange(0, LINES)[None, :] * LINE
    column = first_column + tl.where(offset < COLUMNS, offset, 0)
    column = tl.where(column < K, column, 0)
    row = tl.where(exist, rows, 0)[:, None].to(tl.int64)
    address = (weight_ptr + (row * K + column)).to(tl.int64)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [address], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def _finish(
    total,
    bias_ptr,
    out_ptr,
    tile,
    row,
    rows,
    dtype: tl.constexpr,
    OUT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
):
    """Write sums [BLOCK_M, BLOCK_N]; dtype is that of a rounded product."""
    weight_row, exist = weight_rows(tile, OUT, BLOCK_N, GATED)
    if BIAS:
        total += tl.load(bias_ptr + weight_row, mask=exist, other=0.0).to(tl.float32)[None, :]
    if GATED:
        gate, up = tl.split(tl.reshape(total.to(dtype).to(tl.float32), (BLOCK_M, BLOCK_N // 2, 2)))
        column = tile * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)[None, :]
        mask = (row < rows)[:, None] & (column < OUT)
        tl.store(out_ptr + row[:, None] * OUT + column, silu_product(gate, up, dtype).to(dtype), mask=mask)
    else:
        at = out_ptr + row[:, None] * OUT + weight_row[None, :]
        mask = (row < rows)[:, None] & exist[None, :]
        if ADD:
            before = tl.load(at, mask=mask, other=0.0).to(tl.float32)
            total = before + total.to(dtype).to(tl.float32)
        tl.store(at, total.to(out_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows"])  # every number of rows of a bucket runs the same code
def _dot_kernel(
    x_ptr,
    weight_ptr,
    bias_ptr,
    out_ptr,
    partials_ptr,
    arrived_ptr,
    rows,
    OUT: tl.constexpr,
    K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    SPLITS: tl.constexpr,
    STAGES: tl.constexpr,
    BIAS: tl.constexpr,
    GATED: tl.constexpr,
    ADD: tl.constexpr,
    PREFETCH_LINES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Out [rows, OUT] of x [rows, K]: program (tile, split) takes the split's columns of the tile's weights."""
    dtype = x_ptr.dtype.element_ty
    COLUMNS: tl.constexpr = (K + SPLITS * BLOCK_K - 1) // (SPLITS * BLOCK_K) * BLOCK_K  # of a split
    tile, split = tl.program_id(0), tl.program_id(1)
    weight_row, exist = weight_rows(tile, OUT, BLOCK_N, GATED)
    if PDL:
        _prefetch(weight_ptr, weight_row, exist, split * COLUMNS, K, COLUMNS, PREFETCH_LINES)
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()

    row = tl.arange(0, BLOCK_M)
    row_kept = row < rows
    if 2 * OUT * K >= 2**31:
        weight_row = weight_row.to(tl.int64)
    sums = tl.zeros((BLOCK_N, BLOCK_M), tl.float32)
    for start in tl.range(0, COLUMNS, BLOCK_K, num_stages=STAGES):
        column = split * COLUMNS + start + tl.arange(0, BLOCK_K)
        weight_mask, x_mask = exist[:, None], row_kept[:, None]
        if K % (SPLITS * BLOCK_K) != 0:
            weight_mask = weight_mask & (column < K)[None, :]
            x_mask = x_mask & (column < K)[None, :]
        weights = tl.load(weight_ptr + (weight_row[:, None] * K + column[None, :]), mask=weight_mask, other=0.0)
        x = tl.load(x_ptr + (row[:, None] * K + column[None, :]), mask=x_mask, other=0.0)
        sums = tl.dot(weights, tl.trans(x), sums)
    total = tl.trans(sums)

    if SPLITS == 1:
        _finish(total, bias_ptr, out_ptr, tile, row, rows, dtype, OUT, BLOCK_M, BLOCK_N, BIAS, GATED, ADD)
    else:
        within = row[:, None] * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
        parts_ptr = partials_ptr + tile * (SPLITS * BLOCK_M * BLOCK_N)
        tl.store(parts_ptr + split * (BLOCK_M * BLOCK_N) + within, total)
        # every thread's part must be written before one of them says so
        tl.debug_barrier()
        arrived = tl.atomic_add(arrived_ptr + tile, 1, sem="acq_rel", scope="gpu")
        if arrived == SPLITS - 1:
            tl.store(arrived_ptr + tile, 0)
            total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            for part in tl.static_range(SPLITS):
                # past L1, which may hold what another kernel left at the address
                total += tl.load(parts_ptr + part * (BLOCK_M * BLOCK_N) + within, cache_modifier=".cg")
            _finish(total, bias_ptr, out_ptr, tile, row, rows, dtype, OUT, BLOCK_M, BLOCK_N, BIAS, GATED, ADD)


def launch(operands: Operands, config: DotConfig, workspace: Workspace | None, *, pdl: bool) -> None:
    """Compute the product of checked operands of at most `MAX_ROWS` rows, without a norm; see `linear_small`.

    Raises:
        ValueError: K is split, and there is no workspace or it is too small.
    """
    (rows, columns), weight = operands.x.shape, operands.weight
    block_m = max(16, triton.next_power_of_2(rows))
    tiles = triton.cdiv(weight.shape[0], config.block_n)
    partials: Tensor = operands.x
    arrived: Tensor = operands.x
    if config.splits > 1:
        if workspace is None:
            raise ValueError("a product whose K is split needs a workspace")
        workspace.check(tiles, tiles * config.splits * block_m * config.block_n)
        partials, arrived = workspace.partials, workspace.arrived
    of_split = triton.cdiv(triton.cdiv(columns, config.block_k), config.splits) * config.block_k
    _dot_kernel[(tiles, config.splits)](
        operands.x,
        weight,
        weight if operands.bias is None else operands.bias,
        operands.out,
        partials,
        arrived,
        rows,
        OUT=operands.out.shape[1],
        K=columns,
        BLOCK_M=block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
        SPLITS=config.splits,
        STAGES=config.num_stages,
        BIAS=operands.bias is not None,
        GATED=operands.gated,
        ADD=operands.add,
        PREFETCH_LINES=min(_PREFETCH_LINES, triton.next_power_of_2(triton.cdiv(of_split, _LINE))),
        PDL=pdl,
        num_warps=config.num_warps,
        **pdl_options(pdl),
    )
