"""Pointwise kernels beside the speed of memory: `python -m bough.load.kernel_bench.pointwise`.

Widths are those of Qwen3-8B. Each time is that of one launch within a CUDA graph of launches over different memory,
500 MB in all where the rows are many: few rows lie in L2 in a model too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Tensor

from bough.kernels.gpu.activation import silu_mul
from bough.kernels.gpu.norm import add_rms_norm, rms_norm
from bough.kernels.gpu.rope import PAGE_SIZE, norm_rope_store
from bough.load.kernel_bench.linear import BANDWIDTH, graph_us

ROWS = (1, 64, 256, 8192)
_WIDTH = 4096
_INNER = 12_288
_HEADS, _KV_HEADS, _HEAD_DIM = 32, 8, 128
_EPS = 1e-6
_DEVICE = torch.device("cuda")


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=_DEVICE, dtype=torch.bfloat16)


def _norm(rows: int) -> tuple[Callable[[], object], int]:
    x, weight = _random(rows, _WIDTH), _random(_WIDTH)
    out = torch.empty_like(x)
    return lambda: rms_norm(x, weight, _EPS, out), 4 * x.numel()


def _add_norm(rows: int) -> tuple[Callable[[], object], int]:
    x, delta, weight = _random(rows, _WIDTH), _random(rows, _WIDTH), _random(_WIDTH)
    out = torch.empty_like(x)
    return lambda: add_rms_norm(x, delta, weight, _EPS, out), 8 * x.numel()


def _rope(rows: int) -> tuple[Callable[[], object], int]:
    qkv, norm = _random(rows, (_HEADS + 2 * _KV_HEADS) * _HEAD_DIM), _random(_HEAD_DIM)
    positions = torch.arange(rows, device=_DEVICE)
    pages = -(-rows // PAGE_SIZE)
    cache = torch.zeros(2, pages, _KV_HEADS, PAGE_SIZE, _HEAD_DIM, device=_DEVICE, dtype=torch.bfloat16)
    rotary = torch.ones(rows, _HEAD_DIM, device=_DEVICE)
    out = torch.empty(rows, _HEADS * _HEAD_DIM, device=_DEVICE, dtype=torch.bfloat16)

    def launch() -> Tensor:
        return norm_rope_store(qkv, positions, positions, rotary, norm, norm, _EPS, cache[0], cache[1], _HEADS, out=out)

    return launch, 4 * qkv.numel() + 4 * rotary.numel()


def _silu_mul(rows: int) -> tuple[Callable[[], object], int]:
    gate_up = _random(rows, 2 * _INNER)
    out = torch.empty(rows, _INNER, device=_DEVICE, dtype=torch.bfloat16)
    return lambda: silu_mul(gate_up, out), 6 * out.numel()


_CASES = {"rms_norm": _norm, "add_rms_norm": _add_norm, "norm_rope_store": _rope, "silu_mul": _silu_mul}


def main() -> int:
    """Print a table."""
    if not torch.cuda.is_available():
        print("this needs a CUDA device")
        return 1
    print(f"{'':18}{'rows':>6}{'us':>9}   of {BANDWIDTH / 1e12} TB/s (bytes read and written)")
    for name, make in _CASES.items():
        for rows in ROWS:
            num_bytes = make(rows)[1]
            copies = max(4, min(64, int(500e6 // num_bytes)))
            launches = [make(rows)[0] for _ in range(copies)]

            def run(launches: list[Callable[[], object]] = launches) -> None:
                for launch in launches:
                    launch()

            us = graph_us(run) / copies
            print(f"{name:18}{rows:6}{us:9.2f}   {num_bytes / BANDWIDTH * 1e6 / us:.0%}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
