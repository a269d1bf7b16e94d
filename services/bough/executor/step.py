"""One step of the executor as plain data: which rows compute how many tokens, and what happens to pages before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from bough.common.prefix_hash import token_bytes
from bough.executor.mixed_budget import MixedBudget
from bough.executor.sequence import Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposerLimits:
    """What one step and one sequence may use at most."""

    max_rows: int
    token_budget: int
    """Tokens a step, decodes included; more than `max_rows`, so that prefills always move."""
    max_context: int
    """Tokens of one sequence, prompt and generated."""
    max_lines: int | None = None
    """Lines of logits in a step, at least `max_rows`; None for as many as tokens."""
    mixed_budget: MixedBudget | None = None
    """How many prompt tokens may join decodes in a step; None for as many as `token_budget` has."""
    context_cost: float = 0.0
    """What a token of context adds to the cost of computing a token, in tokens without context."""
    headroom_pages: int = 4
    """Pages that admission leaves free for each running row's next tokens (fewer if its `max_tokens` needs fewer)."""

    def __post_init__(self) -> None:
        """Refuses limits under which the composer could not make progress."""
        if self.max_rows < 1 or self.max_context < 1 or self.headroom_pages < 0:
            raise ValueError(f"max_rows and max_context must be positive, headroom_pages not negative: {self}")
        if self.token_budget <= self.max_rows:
            raise ValueError(f"token_budget must be greater than max_rows ({self.max_rows}), got {self.token_budget}")
        if self.max_lines is not None and self.max_lines < self.max_rows:
            raise ValueError(f"max_lines must not be less than max_rows ({self.max_rows}), got {self.max_lines}")


class PageCopy(NamedTuple):
    """K/V of page `src` must be copied to page `dst` before the forward of the step."""

    src: int
    dst: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RowWork:
    """What one row computes in a step: the tokens of its sequence at positions `start` to `start + num_tokens - 1`."""

    sequence: Sequence
    start: int
    num_tokens: int
    samples: bool
    """The row's last logits are wanted: no token of the sequence is left to compute."""
    drafts: tuple[int, ...] = ()
    """The last tokens are not the sequence's but these, on trial; their logits are wanted too."""

    @property
    def num_samples(self) -> int:
        """Lines of logits."""
        return 1 + len(self.drafts) if self.samples else 0

    def packed(self) -> bytes:
        """The tokens as `token_bytes` packs them."""
        own = self.sequence.packed(self.start, self.start + self.num_tokens - len(self.drafts))
        return own + token_bytes(self.drafts) if self.drafts else own


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

    assemble: Callable[[StepPlan], StepArrays]
    """Builds `arrays`."""
    decodes: list[Sequence] = field(default_factory=list)
    """Rows that compute exactly one token, the one sampled last, and sample."""
    decode_rows: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """[D] rows of `decodes`; the same array as in the step before when they are the same."""
    chunks: list[RowWork] = field(default_factory=list)
    """Rows after the decodes: those with drafts, then prefill chunks."""
    copies: list[PageCopy] = field(default_factory=list)
    retracted: list[Sequence] = field(default_factory=list)
    """Lost their rows for lack of pages; they wait in the composer and resume by themselves."""
    failed: list[FailedSequence] = field(default_factory=list)
    _arrays: StepArrays | None = None

    @property
    def arrays(self) -> StepArrays:
        """The input of the step's forward, built when first asked for, which must be before `advance`."""
        if self._arrays is None:
            self._arrays = self.assemble(self)
        return self._arrays

    @property
    def num_rows(self) -> int:
        """Rows of the step (B)."""
        return len(self.decodes) + len(self.chunks)

    @property
    def sampling(self) -> list[Sequence]:
        """Sequences that get a token in this step, in the order of the logits; one with drafts for each of them too."""
        return self.decodes + [work.sequence for work in self.chunks for _ in range(work.num_samples)]

    @property
    def rows(self) -> list[RowWork]:
        """Every row spelled out. Valid until `advance`."""
        decodes = [
            RowWork(sequence=sequence, start=sequence.num_computed, num_tokens=1, samples=True)
            for sequence in self.decodes
        ]
        return decodes + self.chunks
