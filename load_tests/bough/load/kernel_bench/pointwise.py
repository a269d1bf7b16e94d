"""Pointwise kernels beside the speed of memory: `python -m bough.load.kernel_bench.pointwise`.

Widths are those of Qwen3-8B. Each time is that of one launch within a CUDA graph of launches over different memory,
500 MB in all where the rows are many: few rows lie in L2 in a model too.
`--sweep` compares ways to cut the work of norm and rotation instead.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from bough.kernels.gpu.activation import silu_mul
from bough.kernels.gpu.norm import NormConfig, add_rms_norm, rms_norm
from bough.kernels.gpu.rope import PAGE_SIZE, RopeConfig, norm_rope_store
from bough.load.kernel_bench.linear import BANDWIDTH, graph_us

ROWS = (1, 64, 256, 8192)
_WIDTH = 4096
_INNER = 12_288
_HEADS, _KV_HEADS, _HEAD_DIM = 32, 8, 128
_EPS = 1e-6
_DEVICE = torch.device("cuda")


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=_DEVICE, dtype=torch.bfloat16)


def _norm(rows: int, width: int = _WIDTH, config: NormConfig | None = None) -> tuple[Callable[[], object], int]:
    x, weight = _random(rows, width), _random(width)
    out = torch.empty_like(x)
    return lambda: rms_norm(x, weight, _EPS, out, config=config), 4 * x.numel()


def _add_norm(rows: int) -> tuple[Callable[[], object], int]:
    x, delta, weight = _random(rows, _WIDTH), _random(rows, _WIDTH), _random(_WIDTH)
    out = torch.empty_like(x)
    return lambda: add_rms_norm(x, delta, weight, _EPS, out), 8 * x.numel()


def _rope(rows: int, heads: int = _HEADS, config: RopeConfig | None = None) -> tuple[Callable[[], object], int]:
    qkv, norm = _random(rows, (heads + 2 * _KV_HEADS) * _HEAD_DIM), _random(_HEAD_DIM)
    positions = torch.arange(rows, device=_DEVICE)
    pages = -(-rows // PAGE_SIZE)
    cache = torch.zeros(2, pages, _KV_HEADS, PAGE_SIZE, _HEAD_DIM, device=_DEVICE, dtype=torch.bfloat16)
    rotary = torch.ones(rows, _HEAD_DIM, device=_DEVICE)
    out = torch.empty(rows, heads * _HEAD_DIM, device=_DEVICE, dtype=torch.bfloat16)

    def launch() -> Tensor:
        keys, values = cache[0], cache[1]
        return norm_rope_store(
            qkv, positions, positions, rotary, norm, norm, _EPS, keys, values, heads, out=out, config=config
        )

    return launch, 4 * qkv.numel() + 4 * rotary.numel()


def _silu_mul(rows: int) -> tuple[Callable[[], object], int]:
    gate_up = _random(rows, 2 * _INNER)
    out = torch.empty(rows, _INNER, device=_DEVICE, dtype=torch.bfloat16)
    return lambda: silu_mul(gate_up, out), 6 * out.numel()


_CASES: dict[str, Callable[[int], tuple[Callable[[], object], int]]] = {
    "rms_norm": _norm,
    "add_rms_norm": _add_norm,
    "norm_rope_store": _rope,
    "silu_mul": _silu_mul,
}


_NORMS = [NormConfig(*cut) for cut in ((1, 2), (1, 4), (1, 8), (1, 16), (2, 4), (2, 8), (2, 16), (4, 8))]
_ROPES = [RopeConfig(*cut) for cut in ((1, 1), (4, 1), (8, 4), (16, 4), (16, 8), (32, 4), (32, 8))]
_SWEEP_ROWS = (8, 64, 256)
_SWEEP_COPIES = 12
"""Little enough memory to stay in L2, where a step's activations are."""


def _sweep() -> Iterator[tuple[str, Callable[[int], Callable[[], object]]]]:
    """Names of the cases, and what makes a launch for so many rows."""
    for width in (1024, 4096):
        for norm in _NORMS:
            name = f"norm of {width}, {norm.rows} rows, {norm.num_warps} warps"
            yield name, lambda rows, width=width, norm=norm: _norm(rows, width, norm)[0]  # type: ignore[misc]
    for heads in (16, 32):
        for rope in _ROPES:
            name = f"rope of {heads} + 16, {rope.heads} heads, {rope.num_warps} warps"
            yield name, lambda rows, heads=heads, rope=rope: _rope(rows, heads, rope)[0]  # type: ignore[misc]


def _launch_all(launches: list[Callable[[], object]]) -> None:
    for launch in launches:
        launch()


def sweep() -> None:
    """Print microseconds a launch for each way to cut the work."""
    print(f"{'a program has':36}" + "".join(f"{rows:6} rows" for rows in _SWEEP_ROWS))
    for name, make in _sweep():
        times = [
            graph_us(partial(_launch_all, [make(rows) for _ in range(_SWEEP_COPIES)])) / _SWEEP_COPIES
            for rows in _SWEEP_ROWS
        ]
        print(f"{name:36}" + "".join(f"{us:11.2f}" for us in times), flush=True)


def table() -> None:
    """Print each kernel beside the speed of memory."""
    print(f"{'':18}{'rows':>6}{'us':>9}   of {BANDWIDTH / 1e12} TB/s (bytes read and written)")
    for name, make in _CASES.items():
        for rows in ROWS:
            num_bytes = make(rows)[1]
            copies = max(4, min(64, int(500e6 // num_bytes)))
            launches = [make(rows)[0] for _ in range(copies)]
            us = graph_us(partial(_launch_all, launches)) / copies
            print(f"{name:18}{rows:6}{us:9.2f}   {num_bytes / BANDWIDTH * 1e6 / us:.0%}", flush=True)


def main() -> int:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="bough.load.kernel_bench.pointwise", description=__doc__)
    parser.add_argument("--sweep", action="store_true")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("this needs a CUDA device")
        return 1
    if options.sweep:
        sweep()
    else:
        table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
