"""One step of the executor as plain data: which rows compute how many tokens, and what happens to pages before."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bough.executor.sequence import Sequence


class PageCopy(NamedTuple):
    """K/V of page `src` must be copied to page `dst` before the forward of the step."""

    src: int
    dst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWork:
    """What one row computes in a step: `sequence.tokens[start : start + num_tokens]`."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The row's last logits are wanted: no token of the sequence is left to compute."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedSequence:
    """A sequence that can never go on; it is released."""

    sequence: Sequence
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepArrays:
    """The input of a step's forward: T tokens of B rows, rows in order, decodes first. Fresh memory each step."""

    tokens: npt.NDArray[np.int64]  # [T]
    positions: npt.NDArray[np.int64]  # [T]
    slots: npt.NDArray[np.int64]  # [T] page * page_size + offset
    query_start: npt.NDArray[np.int32]  # [B + 1]
    context_lens: npt.NDArray[np.int32]  # [B] own chunk included
    page_table: npt.NDArray[np.int32]  # [B, P]; beyond a row's context: 0 or a page of the row that is not filled yet
    logit_rows: npt.NDArray[np.int64]  # [S] indices into T, in the order of StepPlan.sampling
    rows: npt.NDArray[np.int64]  # [B] stable row of each
    num_decode_rows: int


@dataclass(slots=True, kw_only=True, eq=False)
class StepPlan:
    """The next step. It may have no rows when there is only something to report."""

    decodes: list[Sequence] = field(default_factory=list)
    """Rows that compute exactly one token, the one sampled last, and sample."""
    chunks: list[RowWork] = field(default_factory=list)
    """Rows after the decodes: prefill chunks."""
    copies: list[PageCopy] = field(default_factory=list)
    retracted: list[Sequence] = field(default_factory=list)
    """Lost their rows for lack of pages; they wait in the composer and resume by themselves."""
    failed: list[FailedSequence] = field(default_factory=list)
    arrays: StepArrays | None = None
    """None if and only if the plan has no rows."""

    @property
    def num_rows(self) -> int:
        """Rows of the step (B)."""
        return len(self.decodes) + len(self.chunks)

    @property
    def sampling(self) -> list[Sequence]:
        """Sequences that get a token in this step, in the order of the logits."""
        return self.decodes + [work.sequence for work in self.chunks if work.samples]

    @property
    def rows(self) -> list[RowWork]:
        """Every row spelled out. Valid until `complete`."""
        decodes = [
            RowWork(sequence=sequence, start=sequence.num_computed, num_tokens=1, samples=True)
            for sequence in self.decodes
        ]
        return decodes + self.chunks
