"""Linear layers of 1 to 64 rows at the speed of memory, with bias, activation and residual in the same launch.

Up to four rows are normed in it too; more rows are normed before, in a launch of their own.

Every output is summed in an order that depends on the configuration alone: calls repeat bit for bit, and a row's
result does not depend on the rows beside it within a bucket of `linear_config.bucket`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bough.kernels.gpu import linear_dot, linear_gemv
from bough.kernels.gpu.linear_config import MAX_ROWS, choose_config
from bough.kernels.gpu.linear_dot import DotConfig, Workspace
from bough.kernels.gpu.linear_gemv import GemvConfig
from bough.kernels.gpu.linear_operands import Operands
from bough.kernels.gpu.norm import require, rms_norm
from bough.kernels.interface import Norm


def fits(rows: int, num_outputs: int, depth: int, dtype: torch.dtype) -> bool:
    """Whether `small_linear` takes x [rows, depth] and a weight [num_outputs, depth]."""
    return 0 < rows <= MAX_ROWS and depth % 8 == 0 and num_outputs > 0 and dtype in (torch.bfloat16, torch.float16)


def small_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    norm: Norm | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
    out: Tensor | None = None,
    out_dtype: torch.dtype | None = None,
    workspace: Workspace | None = None,
    config: GemvConfig | DotConfig | None = None,
    pdl: bool = False,
) -> Tensor:
    """`norm(x) @ weight.T + bias`, then `silu(gate) * up` if gated, or added into the residual.

    The norm rounds as `bough.kernels.gpu.norm.rms_norm` does, to the same bits. Sums are float32. A product is rounded
    to the dtype of `x` before an activation or a residual sum, as separate operations would do.

    Args:
        x: [M, K] bfloat16 or float16, contiguous; 1 <= M <= 64, K a multiple of 8.
        weight: [N, K], dtype of x; if gated, all gates' rows before the ups'.
        bias: [N].
        norm: of each row of x.
        gated: whether the result is [M, N / 2], `silu(gate) * up`.
        residual: [M, N] to add the result into, in place; it is then what is returned. Must not share memory with x.
        out: where the result goes, [M, N] or [M, N / 2]; a new tensor if None. Not with a residual.
        out_dtype: float32 for unrounded sums (logits); only for a plain product without `out`.
        workspace: for products whose K is split (more than four rows); one for all calls of a stream.
        config: how the work is cut; chosen by shape if None.
        pdl: launch as a programmatic dependent of the kernel before it in the stream (sm_90). Weight, bias and norm
            must then not be written by earlier kernels still under way.

    Raises:
        ValueError: a shape, dtype or layout that no kernel takes; K to be split and no workspace given.
    """
    require(x.dim() == 2 and weight.dim() == 2, "x must be [M, K] and weight [N, K]")
    rows, num_outputs = x.shape[0], weight.shape[0]
    require(out is None or (residual is None and out_dtype is None), "out excludes residual and out_dtype")
    require(residual is None or out_dtype is None, "a residual keeps its dtype")
    if residual is not None:
        out = residual
    elif out is None:
        shape = (rows, num_outputs // 2 if gated else num_outputs)
        out = torch.empty(shape, dtype=out_dtype or x.dtype, device=x.device)
    config = config or choose_config(rows, num_outputs, x.shape[1], gated)
    if norm is not None and isinstance(config, DotConfig):
        x, norm = rms_norm(x, norm.weight, norm.eps, pdl=pdl), None
    operands = Operands(
        x=x,
        weight=weight,
        bias=bias,
        norm=None if norm is None else norm.weight,
        eps=0.0 if norm is None else norm.eps,
        gated=gated,
        add=residual is not None,
        out=out,
    )
    operands.check()
    if isinstance(config, GemvConfig):
        require(rows <= linear_gemv.MAX_ROWS, f"this configuration takes {linear_gemv.MAX_ROWS} rows at most")
        linear_gemv.launch(operands, config, pdl=pdl)
    else:
        require(rows <= linear_dot.MAX_ROWS, f"{linear_dot.MAX_ROWS} rows at most")
        linear_dot.launch(operands, config, workspace, pdl=pdl)
    return out


class SmallLinear:
    """A layer for 1 to 64 rows: a weight with its bias, its norm and its activation; see `small_linear`.

    Args:
        weight: [N, K].
        workspace: shared by all layers that run on one stream.
        bias: [N].
        norm: of the input.
        gated: whether the layer is `silu(gate) * up`.
        pdl: whether to launch as a programmatic dependent of the kernel before.
    """

    def __init__(
        self,
        weight: Tensor,
        workspace: Workspace,
        bias: Tensor | None = None,
        *,
        norm: Norm | None = None,
        gated: bool = False,
        pdl: bool = False,
    ) -> None:
        self._weight = weight
        self._workspace = workspace
        self._bias = bias
        self._norm = norm
        self._gated = gated
        self._pdl = pdl

    def __call__(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Map [M, K] to [M, N], or [M, N / 2] if gated, in the dtype of `x`."""
        return self._run(x, out=out)

    def add_to(self, residual: Tensor, x: Tensor) -> None:
        """Add what `x` [M, K] maps to into `residual` [M, N], in place."""
        self._run(x, residual=residual)

    def logits(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        """Map [M, K] to [M, N] in float32."""
        if out is not None:
            require(out.dtype == torch.float32, "logits are float32")
            return self._run(x, out=out)
        return self._run(x, out_dtype=torch.float32)

    def _run(
        self,
        x: Tensor,
        *,
        residual: Tensor | None = None,
        out: Tensor | None = None,
        out_dtype: torch.dtype | None = None,
    ) -> Tensor:
        return small_linear(
            x,
            self._weight,
            self._bias,
            norm=self._norm,
            gated=self._gated,
            residual=residual,
            out=out,
            out_dtype=out_dtype,
            workspace=self._workspace,
            pdl=self._pdl,
        )
