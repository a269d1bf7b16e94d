"""Layers over more tokens than one graph is for, as graphs with gaps where launches would hold the GPU up.

The kernels of a large step keep a GPU busy for longer than it takes to launch them, if its layers are large. Those of a
small model do not, or only as long as nothing else wants the launching thread's time. Then all between two attentions
is one graph, and attention, which the host plans for each step, is launched in the gaps (piecewise CUDA graphs, which
vLLM has for attention that no graph can hold). Without such attention the step is one graph.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.attention.prefill import PlannedPrefill
from bough.executor.gpu.timing import gpu_seconds
from bough.executor.kvcache import LayerCache

logger = logging.getLogger(__name__)

WORTHWHILE = 3.0
"""Graphs are kept of steps that take less than so many times their launches: more room than a busy host takes away."""
_PADDING = 1.02
"""How much longer than its share of the tokens a step may take for the padding of its graph."""

Layers = Callable[[int, PlannedPrefill | None], None]
"""Runs all layers over a step of so many tokens, attention of chunks as planned where there is a plan."""


class LargeSteps:
    """The sizes that have graphs.

    Args:
        layers: What is captured, on the current stream.
        sizes: Tokens, ascending.
        is_planned: Attention of chunks is planned on the host.
        pool: Of the graphs' memory.
    """

    def __init__(self, layers: Layers, sizes: Sequence[int], *, is_planned: bool, pool: Any) -> None:
        self._layers = layers
        self._sizes = list(sizes)
        self._is_planned = is_planned
        self._pool = pool
        self._captured: dict[int, _Captured] = {}

    def capture(self) -> None:
        """Compile what these sizes need and capture those for which it pays; waits for the GPU."""
        for size in reversed(self._sizes):
            launch = partial(self._layers, size, _Nothing() if self._is_planned else None)
            launch()
            torch.cuda.synchronize()
            began = time.perf_counter()
            launch()
            launch_s = time.perf_counter() - began
            if gpu_seconds(launch) < WORTHWHILE * launch_s:
                self._capture(size, launch_s)
        self._sizes = sorted(self._captured)

    def size_for(self, num_tokens: int) -> int:
        """Tokens of the graph that a step of so many tokens takes; as many where it takes none."""
        index = bisect_left(self._sizes, num_tokens)
        if index == len(self._sizes):
            return num_tokens
        size = self._sizes[index]
        return size if self._captured[size].pays(num_tokens / size) else num_tokens

    def run(self, size: int, plan: PlannedPrefill | None) -> None:
        """Queue a step of `size_for` some number of tokens, with the plan of its attention if that is planned."""
        captured = self._captured.get(size)
        if captured is None:
            self._layers(size, plan)
        else:
            captured.graph.replay(plan)

    def _capture(self, size: int, launch_s: float) -> None:
        try:
            graph = GappedGraph(partial(self._layers, size), is_gapped=self._is_planned, pool=self._pool)
        except RuntimeError:
            # Also where it would need more memory than there is.
            logger.warning("steps of %d tokens cannot be captured as graphs", size, exc_info=True)
            return
        nothing = _Nothing()
        graph_s = gpu_seconds(lambda: graph.replay(nothing))
        self._captured[size] = _Captured(graph, graph_s, launch_s)
        logger.info("steps of %d tokens: %.1f ms, their launches alone %.1f", size, graph_s * 1e3, launch_s * 1e3)


class _Gap(NamedTuple):
    """What attention in a gap is called with."""

    queries: Tensor
    spec: AttentionSpec
    cache: LayerCache
    out: Tensor


class GappedGraph:
    """Work as a sequence of CUDA graphs, with calls of planned attention between them.

    Args:
        work: What to capture; it has run before. It is given a plan if there are to be gaps.
        is_gapped: Whether there are.
        pool: Of the graphs' memory.
    """

    def __init__(self, work: Callable[[PlannedPrefill | None], None], *, is_gapped: bool, pool: Any) -> None:
        self._pool = pool
        self._graphs: list[torch.cuda.CUDAGraph] = []
        self._gaps: list[_Gap] = []
        self._begin()
        try:
            work(self if is_gapped else None)
        finally:
            self._graphs[-1].capture_end()

    def attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, out: Tensor) -> None:
        """See `PlannedPrefill`; while `work` is captured, this leaves a gap."""
        self._graphs[-1].capture_end()
        self._gaps.append(_Gap(_borrowed(queries), spec, cache, _borrowed(out)))
        self._begin()

    def replay(self, plan: PlannedPrefill | None) -> None:
        """Queue the work; `plan` is needed where there are gaps."""
        for index, graph in enumerate(self._graphs):
            if index:
                assert plan is not None
                plan.attend(*self._gaps[index - 1])
            graph.replay()

    def _begin(self) -> None:
        self._graphs.append(torch.cuda.CUDAGraph())
        self._graphs[-1].capture_begin(pool=self._pool, capture_error_mode="thread_local")


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: GappedGraph
    graph_s: float
    """What it takes, planned attention left out."""
    launch_s: float
    """What its launches one by one take."""

    def pays(self, share: float) -> bool:
        """Whether a step with this share of its tokens is no slower for it."""
        return self.graph_s <= max(self.launch_s, _PADDING * share * self.graph_s)


class _Nothing:
    """Attention that is left out."""

    def attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, out: Tensor) -> None:
        """See `PlannedPrefill`."""


class _Memory:
    """Memory of a tensor in the form of the CUDA array interface, which does not keep it alive."""

    def __init__(self, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (tensor.data_ptr(), False),
            "version": 3,
        }


def _borrowed(tensor: Tensor) -> Tensor:
    """The same contiguous tensor without a share in its memory.

    That belongs to the graphs: later ones go on using what earlier ones have let go of, so that the memory of all
    layers is that of one.
    """
    assert tensor.is_contiguous()
    return torch.as_tensor(_Memory(tensor), device=tensor.device).view(tensor.dtype).view(tensor.shape)
