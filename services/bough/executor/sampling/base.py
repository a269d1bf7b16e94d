"""What the sampling features share: the rows of one step and the verbs of a feature."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.grammar_mask import GrammarMask


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleBatch:
    """The S lines of logits of one step: which row each belongs to and which position it produces.

    Row numbers and positions are kept on both sides: tensors for arithmetic, lists for deciding what there is to do.
    """

    rows: Tensor
    """[S] int64: stable row of each line; no row twice."""
    positions: Tensor
    """[S] int64: position of the token to produce, 0 for the first after the prompt."""
    host_rows: list[int]
    host_positions: list[int]
    mask: GrammarMask | None = None

    @classmethod
    def build(cls, rows: Tensor, positions: Tensor, mask: GrammarMask | None = None) -> SampleBatch:
        """Copy rows and positions to the host, once for all features."""
        return cls(
            rows=rows, positions=positions, host_rows=rows.tolist(), host_positions=positions.tolist(), mask=mask
        )

    def lines_of(self, rows: Collection[int]) -> list[int]:
        """The lines whose row is among `rows`."""
        return [line for line, row in enumerate(self.host_rows) if row in rows] if rows else []

    def subset(self, lines: list[int]) -> SampleBatch:
        """The same step with these lines only; the grammar mask stays behind."""
        index = torch.tensor(lines, dtype=torch.int64, device=self.rows.device)
        return SampleBatch(
            rows=self.rows[index],
            positions=self.positions[index],
            host_rows=[self.host_rows[line] for line in lines],
            host_positions=[self.host_positions[line] for line in lines],
        )


class LogitFeature(Protocol):
    """A feature that changes logits in place, with its state at stable rows.

    `add` after `remove` with the tokens produced so far gives the state that `accept` would have reached, so that a
    retracted sequence goes on as if nothing had happened.
    """

    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int]
    ) -> None:
        """Set the state of a row from its parameters and tokens."""

    def remove(self, row: int) -> None:
        """Forget a row; no effect when it has no state."""

    def apply(self, logits: Tensor, batch: SampleBatch) -> None:
        """Change [S, V] float32 logits in place."""

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Note the [S] int64 tokens sampled for the rows of the batch."""
