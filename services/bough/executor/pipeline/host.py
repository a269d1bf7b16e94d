"""Steps on the CPU: computed when they are launched, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from bough.executor.batch import ForwardBatch
from bough.executor.drawing import Drawing
from bough.executor.mixed_budget import MixedBudget
from bough.executor.pipeline.base import Drawn
from bough.executor.row_table import RowTable
from bough.executor.runner import ModelRunner
from bough.executor.running import Running
from bough.executor.step import StepArrays, StepPlan

_ROWS_A_STEP = 12
"""Rows that cost what all else of a step costs: 0.65 ms at 1 row, 3.4 at 64 (demo model, two cores)."""


class HostPipeline:
    """See `Pipeline`.

    Args:
        runner: The loaded model.
        table: The rows that the composer fills.
        eos_token_ids: The model's end-of-sequence ids.
    """

    depth = 1
    takes_drafts = True
    max_lines: int | None = None
    mixed_budget: MixedBudget | None = None

    def __init__(self, runner: ModelRunner, table: RowTable, *, eos_token_ids: Sequence[int]) -> None:
        self._runner = runner
        self._table = table
        self._drawing = Drawing(max_rows=table.max_rows, vocab_size=runner.vocab_size, eos_token_ids=eos_token_ids)
        self._drawn: Drawn | None = None

    def draft_cost(self, num_rows: int) -> float:
        """A token more costs what a row costs; a step costs as much as some twelve of them beside."""
        return num_rows / (num_rows + _ROWS_A_STEP)

    def launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        """Compute a step."""
        self._table.changes.clear()  # the page table is read where it is
        arrays = plan.arrays
        if plan.copies:
            self._runner.copy_pages([copy.src for copy in plan.copies], [copy.dst for copy in plan.copies])
        self._drawn = self._drawing.draw(running, arrays, self._runner.forward(_forward_batch(arrays)))

    def collect(self, *, wait: bool) -> Drawn | None:
        """The results of the step that was launched."""
        drawn, self._drawn = self._drawn, None
        return drawn

    def forget(self, running: Running) -> None:
        """Free the sampler's row of a sequence, if it has one."""
        self._drawing.forget(running)


def _forward_batch(arrays: StepArrays) -> ForwardBatch:
    return ForwardBatch(
        tokens=torch.from_numpy(arrays.tokens),
        positions=torch.from_numpy(arrays.positions),
        slots=torch.from_numpy(arrays.slots),
        query_start=torch.from_numpy(arrays.query_start),
        context_lens=torch.from_numpy(arrays.context_lens),
        page_table=torch.from_numpy(arrays.page_table),
        num_decode_rows=arrays.num_decode_rows,
        logit_rows=torch.from_numpy(arrays.logit_rows),
    )
