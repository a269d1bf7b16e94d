"""What the engine asks of whatever runs its steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bough.common.sampling import TokenLogprobs
from bough.executor.mixed_budget import MixedBudget
from bough.executor.running import Running
from bough.executor.step import StepPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What a step's S lines of logits became."""

    tokens: list[int]
    """[S]"""
    logprobs: Sequence[TokenLogprobs | None] | None = None
    """[S], None where a line did not ask; None as a whole when no line did."""
    failed: dict[int, str] = field(default_factory=dict)
    """Line -> why its token is worth nothing."""


class DeviceFailedError(Exception):
    """The device is of no use to this process any more, and neither is whatever is on it.

    No request has failed by it: each goes on wherever else it can.
    """


class Pipeline(Protocol):
    """Runs steps in the order in which they are launched. Not thread-safe."""

    depth: int
    """Steps that may be under way at once, the one whose results are waited for included; at least 1."""
    takes_drafts: bool
    """Whether a sequence may have lines for drafts, one after the other."""
    max_lines: int | None
    """Lines of logits that a step may have, at least one for each row; None for as many as tokens."""

    def draft_cost(self, num_rows: int) -> float:
        """What a draft costs in a step of so many rows, as a part of what a row and its share of the step cost."""
        ...

    mixed_budget: MixedBudget | None
    """How many prompt tokens may join decodes, where something is known of it."""

    def launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        """Start a step.

        Args:
            plan: composed and not yet advanced; it is advanced when this returns or calls `settle`.
            running: the entry of each sequence of `plan.sampling`.
            settle: takes all earlier results and advances the plan; called if the step cannot go on without them,
                which is when a grammar has to see the last token.

        Raises:
            DeviceFailedError: nothing can be launched or collected any more.
            Exception: the step could not be started; none of it has an effect.
        """
        ...

    def collect(self, *, wait: bool) -> Drawn | None:
        """Results of the oldest step under way; None if they are not there and `wait` is not set.

        Raises:
            DeviceFailedError: nothing can be launched or collected any more.
        """
        ...

    def forget(self, running: Running) -> None:
        """A sequence leaves its row, to end or to give way."""
        ...
