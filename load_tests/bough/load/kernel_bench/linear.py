"""Products of few rows beside cuBLAS and the speed of memory: `python -m bough.load.kernel_bench.linear`.

Each time is that of one product within a CUDA graph of products with different copies of the weight, 500 MB of them or
more, so that the L2 cache does not help. `--sweep` tries configurations, `--chain` times the layers of a model.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.runtime.errors import OutOfResources

from bough.kernels.gpu.activation import silu_mul
from bough.kernels.gpu.linear_config import candidates, choose_config
from bough.kernels.gpu.linear_dot import DotConfig, Workspace
from bough.kernels.gpu.linear_gemv import MAX_ROWS as FEW_ROWS
from bough.kernels.gpu.linear_gemv import GemvConfig
from bough.kernels.gpu.linear_small import SmallLinear, small_linear
from bough.kernels.gpu.norm import rms_norm
from bough.kernels.gpu.rope import PAGE_SIZE, norm_rope_store
from bough.kernels.interface import Norm

BANDWIDTH = 4.2e12  # bytes a second that an H200 was seen to read
ROWS = (1, 4, 8, 16, 32, 64)
_COLD_BYTES = 500e6
_EPS = 1e-6
_DEVICE = torch.device("cuda")

Config = GemvConfig | DotConfig


@dataclass(frozen=True)
class Shape:
    """A layer of Qwen3."""

    name: str
    depth: int
    num_outputs: int
    kind: str
    """What is fused into it in a model: "norm", "residual", "gated" (with a norm) or "logits" (with a norm)."""


SHAPES = (
    Shape("0.6B qkv", 1024, 4096, "norm"),
    Shape("0.6B o", 2048, 1024, "residual"),
    Shape("0.6B gate_up", 1024, 6144, "gated"),
    Shape("0.6B down", 3072, 1024, "residual"),
    Shape("0.6B head", 1024, 151_936, "logits"),
    Shape("8B qkv", 4096, 6144, "norm"),
    Shape("8B o", 4096, 4096, "residual"),
    Shape("8B gate_up", 4096, 24_576, "gated"),
    Shape("8B down", 12_288, 4096, "residual"),
    Shape("8B head", 4096, 151_936, "logits"),
)


def graph_us(launch: Callable[[], None], *, repeats: int = 7) -> float:
    """Median time in microseconds of a CUDA graph of what `launch` puts on the stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch leaves it untyped
    with torch.cuda.stream(stream):
        launch()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        launch()
    times: list[float] = []
    for repeat in range(repeats + 2):
        # torch leaves events untyped
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        if repeat >= 2:
            times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def _random(*shape: int) -> Tensor:
    return torch.randn(*shape, device=_DEVICE, dtype=torch.bfloat16)


class Case:
    """The operands of a shape: one x, and cold weights."""

    def __init__(self, shape: Shape, rows: int, weights: list[Tensor], workspace: Workspace) -> None:
        self._shape = shape
        self._weights = weights
        self._workspace = workspace
        self._x = _random(rows, shape.depth)
        self._norm = Norm(_random(shape.depth), _EPS)
        self._residual = _random(rows, shape.num_outputs) if shape.kind == "residual" else None
        self._out_dtype = torch.float32 if shape.kind == "logits" else torch.bfloat16
        self._out = torch.empty(rows, shape.num_outputs, device=_DEVICE, dtype=self._out_dtype)
        self._gated_out = torch.empty(rows, shape.num_outputs // 2, device=_DEVICE, dtype=torch.bfloat16)

    @property
    def num_bytes(self) -> int:
        """Of a weight."""
        return self._weights[0].numel() * 2

    def cublas(self) -> None:
        """A plain product by torch, of each weight."""
        for weight in self._weights:
            if self._out_dtype == torch.float32:
                torch.mm(self._x, weight.t(), out_dtype=torch.float32)
            elif self._residual is not None:
                self._residual.addmm_(self._x, weight.t())
            else:
                torch.mm(self._x, weight.t(), out=self._out)

    def plain(self, config: Config | None = None) -> None:
        """The same product by our kernels, nothing fused but the residual."""
        for weight in self._weights:
            if self._residual is not None:
                small_linear(self._x, weight, residual=self._residual, workspace=self._workspace, config=config)
            else:
                small_linear(self._x, weight, out=self._out, workspace=self._workspace, config=config)

    def fused(self, config: Config | None = None, pdl: bool = True) -> None:
        """As a model runs it: norm (of few rows) and activation within, dependent launch."""
        kind = self._shape.kind
        norm = self._norm if kind != "residual" and self._x.shape[0] <= FEW_ROWS else None
        run = partial(small_linear, norm=norm, workspace=self._workspace, config=config, pdl=pdl)
        for weight in self._weights:
            if kind == "residual":
                run(self._x, weight, residual=self._residual)
            elif kind == "gated":
                run(self._x, weight, gated=True, out=self._gated_out)
            else:
                run(self._x, weight, out=self._out)


def cold_weights(shape: Shape) -> list[Tensor]:
    """Enough copies of a weight that none is in L2 when its turn comes."""
    first = _random(shape.num_outputs, shape.depth).div_(shape.depth**0.5)
    copies = max(2, -int(-_COLD_BYTES // (first.numel() * 2)))
    return [first] + [first.clone() for _ in range(copies - 1)]


def table(shapes: Sequence[Shape], all_rows: Sequence[int]) -> None:
    """Print cuBLAS and ours for each shape and number of rows."""
    print(
        f"{'':14}{'rows':>5}{'cuBLAS us':>11}{'ours':>8}{'fused':>8}   of {BANDWIDTH / 1e12} TB/s: cuBLAS, ours, fused"
    )
    for shape in shapes:
        weights, workspace = cold_weights(shape), Workspace(_DEVICE)
        for rows in all_rows:
            case = Case(shape, rows, weights, workspace)
            times = [graph_us(launch) / len(weights) for launch in (case.cublas, case.plain, case.fused)]
            floor = case.num_bytes / BANDWIDTH * 1e6
            shares = "".join(f"{floor / each:8.0%}" for each in times)
            print(f"{shape.name:14}{rows:5}{times[0]:11.2f}{times[1]:8.2f}{times[2]:8.2f}   {shares}", flush=True)


def _compile(job: tuple[Shape, int, Config]) -> None:
    """Put the kernels of one configuration into Triton's cache on disk."""
    shape, rows, config = job
    weight = torch.empty(shape.num_outputs, shape.depth, device=_DEVICE, dtype=torch.bfloat16)
    with suppress(OutOfResources):  # the sweep meets it again and says so
        Case(shape, rows, [weight], Workspace(_DEVICE)).fused(config)
    torch.cuda.synchronize()
    del weight
    torch.cuda.empty_cache()


def sweep(shapes: Sequence[Shape], all_rows: Sequence[int], processes: int) -> None:
    """Print the best candidate of each shape and number of rows, as entries of the table in `linear_config`."""
    jobs = [
        (shape, rows, config)
        for shape in shapes
        for rows in all_rows
        for config in candidates(rows, shape.num_outputs, shape.depth)
    ]
    start = time.perf_counter()
    # 8 and 16 rows run the same code
    unlike = [job for job in jobs if job[1] != 8 or 16 not in all_rows]
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        list(pool.map(_compile, unlike, chunksize=4))
    print(f"# {len(jobs)} configurations compiled in {time.perf_counter() - start:.0f} s", flush=True)
    for shape in shapes:
        weights, workspace = cold_weights(shape), Workspace(_DEVICE)
        for rows in all_rows:
            case, found = Case(shape, rows, weights, workspace), []
            for config in candidates(rows, shape.num_outputs, shape.depth):
                try:
                    found.append((graph_us(partial(case.fused, config), repeats=5) / len(weights), config))
                except OutOfResources as error:
                    print(f"# {shape.name}, {rows} rows, {config}: {error}", flush=True)
            floor = case.num_bytes / BANDWIDTH * 1e6
            rule = choose_config(rows, shape.num_outputs, shape.depth, shape.kind == "gated")
            at_rule = next((us for us, config in found if config == rule), float("nan"))
            best_us, best = min(found, key=lambda each: each[0])
            key = (rows, shape.num_outputs, shape.depth, shape.kind == "gated")
            print(
                f"    {key}: {best},  # {best_us:.2f} us, {floor / best_us:.0%}; chosen now {at_rule:.2f} us",
                flush=True,
            )


class Chain:
    """28 layers of Qwen3-0.6B for one row, attention left out: five launches a layer, and the head."""

    def __init__(self, *, ours: bool, pdl: bool, layers: int = 28) -> None:
        self._ours, self._pdl = ours, pdl
        generator = torch.Generator(_DEVICE).manual_seed(0)

        def weight(num_outputs: int, depth: int) -> Tensor:
            made = torch.randn(num_outputs, depth, generator=generator, device=_DEVICE, dtype=torch.bfloat16)
            return made.div_(depth**0.5)

        self._layers = [
            (weight(4096, 1024), weight(1024, 2048), weight(6144, 1024), weight(1024, 3072)) for _ in range(layers)
        ]
        self._head = weight(151_936, 1024)
        self._norm = Norm(torch.ones(1024, device=_DEVICE, dtype=torch.bfloat16), _EPS)
        self._head_norm = torch.ones(128, device=_DEVICE, dtype=torch.bfloat16)
        self._workspace = Workspace(_DEVICE)
        self._embedded = weight(1, 1024)
        self._cache = torch.zeros(2, 4, 8, PAGE_SIZE, 128, device=_DEVICE, dtype=torch.bfloat16)
        self._at = torch.ones(1, device=_DEVICE, dtype=torch.int64)
        angle = torch.arange(64, device=_DEVICE).unsqueeze(1) * 10_000.0 ** -(torch.arange(64, device=_DEVICE) / 64)
        self._rotary = torch.cat((angle.cos(), angle.sin()), dim=-1)
        self.residual = self._embedded.clone()
        self.logits = torch.empty(1, 151_936, device=_DEVICE)

    def run(self, with_head: bool = True) -> None:
        """Put one pass on the stream."""
        torch.mul(self._embedded, 1, out=self.residual)  # a kernel, as an embedding is; a copy would be none
        for layer in self._layers:
            (self._layer if self._ours else self._cublas_layer)(*layer)
        if not with_head:
            return
        if self._ours:
            self._linear(self._head, norm=self._norm).logits(self.residual, self.logits)
        else:
            torch.mm(rms_norm(self.residual, *self._parts()), self._head.t(), out_dtype=torch.float32)

    def _parts(self) -> tuple[Tensor, float]:
        return self._norm.weight, self._norm.eps

    def _linear(self, weight: Tensor, norm: Norm | None = None, gated: bool = False) -> SmallLinear:
        return SmallLinear(weight, self._workspace, norm=norm, gated=gated, pdl=self._pdl)

    def _between(self, qkv: Tensor) -> Tensor:
        norm, at = self._head_norm, self._at
        return norm_rope_store(
            qkv, at, at, self._rotary, norm, norm, _EPS, self._cache[0], self._cache[1], 16, pdl=self._pdl
        )

    def _layer(self, qkv: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> None:
        queries = self._between(self._linear(qkv, self._norm)(self.residual))
        self._linear(o).add_to(self.residual, queries)
        activated = self._linear(gate_up, self._norm, gated=True)(self.residual)
        self._linear(down).add_to(self.residual, activated)

    def _cublas_layer(self, qkv: Tensor, o: Tensor, gate_up: Tensor, down: Tensor) -> None:
        queries = self._between(F.linear(rms_norm(self.residual, *self._parts()), qkv))
        self.residual.addmm_(queries, o.t())
        activated = silu_mul(F.linear(rms_norm(self.residual, *self._parts()), gate_up))
        self.residual.addmm_(activated, down.t())


def chain() -> None:
    """Print the time of a pass with cuBLAS, with our kernels, and with dependent launches."""
    results = []
    for name, ours, pdl in (("cuBLAS", False, False), ("ours", True, False), ("ours, dependent launch", True, True)):
        made = Chain(ours=ours, pdl=pdl)
        layers, whole = graph_us(partial(made.run, with_head=False)), graph_us(made.run)
        results.append((made.residual.clone(), made.logits.clone()))
        print(f"28 layers of 0.6B, 1 row, {name:24}{layers / 28:7.2f} us a layer, {whole / 1e3:.3f} ms with the head")
        del made
    same = all(torch.equal(plain, dependent) for plain, dependent in zip(results[1], results[2], strict=True))
    print("dependent launches give the same bits:", same)


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sweep", action="store_true", help="try the candidate configurations")
    parser.add_argument("--chain", action="store_true", help="only the chain of layers")
    parser.add_argument("--shapes", default="", help="only shapes whose name contains this")
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS))
    parser.add_argument("--processes", type=int, default=16, help="for compiling")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("this needs a CUDA device")
        return 1
    shapes = [shape for shape in SHAPES if arguments.shapes in shape.name]
    if arguments.sweep:
        sweep(shapes, arguments.rows, arguments.processes)
    elif not arguments.chain:
        table(shapes, arguments.rows)
    if arguments.chain or not arguments.sweep:
        chain()
    return 0


if __name__ == "__main__":
    sys.exit(main())
