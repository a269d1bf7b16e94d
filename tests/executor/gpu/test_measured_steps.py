"""Times of steps at start: all graphs or none, and nothing of it shows in the first step. Graphs are stand-ins here."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from bough.executor.gpu import steps as module
from bough.executor.gpu.ring import ResultRing
from bough.executor.gpu.steps import GpuSteps, Variant


class Graph:
    """Counts its replays, each of which ends a step."""

    def __init__(self, ring: ResultRing) -> None:
        self.num_replays = 0
        self._ring = ring

    def replay(self) -> None:
        self.num_replays += 1
        self._ring.step_counter += 1


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> GpuSteps:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)

    def seconds(work: Callable[[], object]) -> float:
        work()
        return 1e-3

    monkeypatch.setattr(module, "gpu_seconds", seconds)
    made = GpuSteps.__new__(GpuSteps)
    made._ring = ResultRing(4, torch.device("cpu"))
    made._decode_sizes, made._mixed_sizes, made._sample_sizes = [1, 4], [16, 32], [1, 4]
    plain = Variant()
    keys = [module._Key("decode", size, plain) for size in (1, 4)]
    keys += [module._Key("mixed layers", size) for size in (16, 32)]
    keys += [module._Key("sample of chunks", size, plain) for size in (1, 4)]
    made._graphs = {key: Graph(made._ring) for key in keys}  # type: ignore[misc]
    return made


def test_every_size_is_timed_and_the_first_step_still_has_number_zero(steps: GpuSteps) -> None:
    budget = steps.measure(1e-8)
    assert budget is not None and budget.context_s == 1e-8
    assert (list(budget.decode), list(budget.layers), list(budget.sample)) == ([1, 4], [16, 32], [1, 4])
    assert int(steps._ring.step_counter) == 0


@pytest.mark.parametrize("index", range(6))
def test_nothing_is_run_where_a_graph_is_missing(steps: GpuSteps, index: int) -> None:
    del steps._graphs[list(steps._graphs)[index]]
    assert steps.measure(1e-8) is None
    assert not any(graph.num_replays for graph in steps._graphs.values())  # type: ignore[attr-defined]
    assert int(steps._ring.step_counter) == 0
