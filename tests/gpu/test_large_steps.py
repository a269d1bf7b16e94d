"""Steps above the largest graph of whole steps: tokens are those of the CPU, launched one by one and as graphs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from bough.executor.attention.prefill import PlannedPrefill
from bough.executor.gpu import large_steps, steps
from bough.executor.gpu.large_steps import GappedGraph
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import admission, generate, load_runner, make_engine, make_gpu_engine, random_tokens

pytestmark = pytest.mark.gpu

LENGTHS = (17, 33, 64, 90, 129, 150, 311)


@pytest.mark.parametrize("has_graphs", [False, True], ids=["launched", "graphs"])
@pytest.mark.parametrize("name", ["qwen3", "qwen2-window"])
def test_tokens_are_those_of_the_cpu(
    name: str, has_graphs: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "_MIXED_SIZES", (16,))
    monkeypatch.setattr(steps, "_LARGE_SIZES", (32, 96))
    monkeypatch.setattr(large_steps, "WORTHWHILE", math.inf if has_graphs else 0.0)
    replays: list[GappedGraph] = []
    replay = GappedGraph.replay

    def counted(graph: GappedGraph, plan: PlannedPrefill | None) -> None:
        replays.append(graph)
        replay(graph, plan)

    monkeypatch.setattr(GappedGraph, "replay", counted)
    model_dir = write_checkpoint(name, tmp_path / "model")
    requests = [admission(i + 1, random_tokens(length, length)) for i, length in enumerate(LENGTHS)]
    expected = generate(make_engine(load_runner(model_dir)), *requests)
    engine = make_gpu_engine(model_dir, max_rows=len(LENGTHS), token_budget=145)
    replays.clear()  # those that were timed
    assert [generate(engine, request)[0] for request in requests] == expected  # no step with chunks has decodes
    assert len(set(replays)) == (3 if has_graphs else 0)
