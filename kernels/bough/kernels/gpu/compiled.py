"""What lies between the attention of one layer and that of the next, as one function compiled by `torch.compile`.

One function for each number of tokens, with static shapes: weights are arguments, so that all layers of a model share
it. The compiler fuses the sums and norms between products; the products stay cuBLAS's, or become Triton's with what
follows them inside where that measures faster (`max-autotune`).

Numbers are rounded where the other kernels round: every product to the dtype, then the sum with the residual (cuBLAS
in `GpuLinear.add_to` adds before it rounds, its products for few rows do as here). The squares of a norm are summed in
float32 and not in float64, so its last bit may differ from that of `bough.kernels.gpu.norm`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

logger = logging.getLogger(__name__)

CompileMode = Literal["default", "max-autotune"]

_MAX_SIZES = 64
"""Functions that the compiler may keep for one piece of code, instead of its 8."""


class CompileError(Exception):
    """Nothing was compiled; the message is what the compiler said."""


class Dense(NamedTuple):
    """A linear layer as the compiled function takes it."""

    weight: Tensor
    """[out, in]; if gated the gates' rows come first, then as many of the ups'."""
    bias: Tensor | None
    """[out]"""
    norm: Tensor | None
    """[in], weight of an RMS norm of the input."""
    eps: float
    """Of that norm."""


class Between(NamedTuple):
    """The layers between two attentions."""

    out: Dense
    """Projection of what the attention gives."""
    gate_up: Dense
    """Gate and up projection of the normed residual stream."""
    down: Dense
    qkv: Dense
    """Projection to the queries, keys and values of the next layer, of the normed residual stream."""


Block = Callable[[Tensor, Tensor, Between], tuple[Tensor, Tensor]]


def between_attentions(residual: Tensor, attended: Tensor, between: Between) -> tuple[Tensor, Tensor]:
    """The rest of a layer, and the projection of the next: in torch's own operations, nothing written in place.

    Args:
        residual: [T, hidden], the residual stream before the attention is added.
        attended: [T, H * D], what the attention gives.
        between: weights.

    Returns:
        The residual stream [T, hidden] after the layer, and the next layer's queries, keys and values
        [T, (H + 2 * KV) * D]; dtype of `residual`.
    """
    residual = _sum(residual, _dense(attended, between.out))
    gate, up = _dense(residual, between.gate_up).chunk(2, dim=-1)
    residual = _sum(residual, _dense(F.silu(gate) * up, between.down))
    return residual, _dense(residual, between.qkv)


class CompiledBlock:
    """`between_attentions` by the compiler, which runs at the first call with a new shape; for inference mode only.

    Args:
        mode: `default` fuses what lies between products; `max-autotune` also measures which product is fastest.
    """

    def __init__(self, mode: CompileMode) -> None:
        import torch._inductor  # like the compiler's other parts: almost a second, which only those pay who want it

        _keep_on_disk()
        options: dict[str, str | int | bool | Callable[..., object]] = {
            # without it values stay in float32 within a fused kernel, and a sum would round elsewhere than ours
            "emulate_precision_casts": True,
        }
        if mode == "max-autotune":
            options |= torch._inductor.list_mode_options("max-autotune-no-cudagraphs")
        self._compiled: Block = torch.compile(between_attentions, fullgraph=True, dynamic=False, options=options)
        self._sizes: set[int] = set()
        self._seconds = 0.0

    def __call__(self, residual: Tensor, attended: Tensor, between: Between) -> tuple[Tensor, Tensor]:
        """See `between_attentions`.

        Raises:
            CompileError: the compiler, or one that it calls, is not there or does not work.
        """
        if residual.shape[0] in self._sizes:
            return self._compiled(residual, attended, between)
        return self._compile(residual, attended, between)

    def _compile(self, residual: Tensor, attended: Tensor, between: Between) -> tuple[Tensor, Tensor]:
        """The first call with a number of tokens."""
        import torch._dynamo

        num_tokens = residual.shape[0]
        began = time.perf_counter()
        try:
            with torch._dynamo.config.patch(recompile_limit=_MAX_SIZES):
                result = self._compiled(residual, attended, between)
        except (torch._dynamo.exc.TorchDynamoException, ImportError, OSError, subprocess.CalledProcessError) as error:
            raise CompileError(_reason(error)) from error
        self._sizes.add(num_tokens)
        seconds = time.perf_counter() - began
        self._seconds += seconds
        logger.info("compiled for %d tokens in %.1f s, %.1f s in all", num_tokens, seconds, self._seconds)
        return result


def _reason(error: Exception) -> str:
    """What went wrong, in one line and without the compiler's advice on how to debug it."""
    cause = getattr(error, "inner_exception", error)
    line = next((line for line in str(cause).splitlines() if line.strip()), "")
    return f"{type(cause).__name__}: {line}"


def _sum(residual: Tensor, product: Tensor) -> Tensor:
    """The sum, rounded once, as torch's own is.

    Written so, a half-precision sum becomes part of the norm that follows. A plain one the compiler may give to the
    product, which for cuBLAS begins with a copy of the residual.
    """
    return (residual.float() + product.float()).to(residual.dtype)


def _dense(x: Tensor, dense: Dense) -> Tensor:
    if dense.norm is not None:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + dense.eps)
        x = dense.norm * wide.to(x.dtype)
    return F.linear(x, dense.weight, dense.bias)


def _keep_on_disk() -> None:
    """Let the compiler keep what it makes within Triton's cache, so that there is one folder to keep.

    By itself it would take one below /tmp, and send Triton there too, for all kernels from its first one on.
    """
    folder = str(triton.knobs.cache.dir)
    os.environ.setdefault("TRITON_CACHE_DIR", folder)
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(folder) / "inductor"))
