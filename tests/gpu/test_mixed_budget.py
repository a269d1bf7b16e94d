"""What an engine on the GPU measures of its steps at start."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bough.executor.gpu.pipeline import GpuPipeline
from bough.executor.gpu.runner import GpuRunner
from bough.executor.mixed_budget import TimedBudget
from bough.executor.row_table import RowTable
from bough.executor.runner import RunnerConfig
from tests.helpers.checkpoints import write_checkpoint

pytestmark = pytest.mark.gpu


def test_every_graph_of_a_step_is_timed(tmp_path: Path) -> None:
    model_dir = write_checkpoint("qwen3", tmp_path)
    config = RunnerConfig(model_dir=model_dir, dtype="float32", num_pages=400, max_rows=40, token_budget=512)
    runner = GpuRunner.load(config, torch.device("cuda", 0))
    pipeline = GpuPipeline(runner, RowTable(max_rows=40, max_pages=64, page_size=16), eos_token_ids=())
    times = pipeline.mixed_budget
    assert isinstance(times, TimedBudget)
    # A step of 40 rows may have 256 lines, since drafts are lines too.
    assert list(times.decode)[-1] == 40 and list(times.layers)[-1] == 512 and list(times.sample)[-1] == 256
    for measured in (times.decode, times.layers, times.sample):
        assert all(0 < seconds < 1 for seconds in measured.values())
    # An H200 reads 4.2 TB/s at most.
    assert runner.layout.page_bytes / 16 / 5e12 < times.context_s < 1e-3
