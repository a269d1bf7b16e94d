"""A step's input on the GPU: lines refer to stable rows of the page table, and padding fills it to a fixed size."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from bough.executor.attention.prefill import PlannedPrefill
from bough.executor.batch import ForwardBatch
from bough.kernels.gpu.attention_decode_split import DecodeSplits
from bough.kernels.gpu.attention_prefill_plan import PrefillPlan
from bough.kernels.gpu.attention_shared import SharedPrefixes
from bough.kernels.gpu.rows import StepInput


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuBatch(ForwardBatch):
    """A `ForwardBatch` whose `page_table` is that of all rows. Slots of padding tokens are -1."""

    rows: Tensor
    """[B] int32: row of the page table of each line."""
    decode_lens: Tensor
    """[B] int32: context of lines with one token, which come first; 0 for chunks and padding."""
    splits: DecodeSplits
    """How decode attention cuts contexts."""
    chunks: PrefillPlan | None = None
    """Blocks of all chunks; None where no line may be one."""
    shared: SharedPrefixes | None = None
    """Prefixes that decodes share, where attention is to make use of them."""
    planned: PlannedPrefill | None = None
    """Serves the chunks of layers without a window."""

    @classmethod
    def of(
        cls,
        step: StepInput,
        page_table: Tensor,
        *,
        num_decode_lines: int,
        splits: DecodeSplits,
        chunks: PrefillPlan | None = None,
        shared: SharedPrefixes | None = None,
        planned: PlannedPrefill | None = None,
    ) -> GpuBatch:
        """The batch that reads a step's input.

        Args:
            step: of the size of the step.
            page_table: [R, P] int32 of all rows.
            num_decode_lines: lines at the beginning that may be decodes.
            splits: for decode attention.
            chunks: for attention of chunks; None where no line may be one.
            shared: prefixes of decode lines.
            planned: of the step's chunks, for a step that no graph holds.
        """
        return cls(
            tokens=step.tokens,
            positions=step.positions,
            slots=step.slots,
            query_start=step.query_start,
            context_lens=step.chunk_lens,
            page_table=page_table,
            num_decode_rows=num_decode_lines,
            logit_rows=step.logit_rows,
            rows=step.rows,
            decode_lens=step.decode_lens,
            splits=splits,
            chunks=chunks,
            shared=shared,
            planned=planned,
        )
