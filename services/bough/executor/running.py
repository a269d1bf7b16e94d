"""What the engine keeps of a sequence besides what the composer does: stop rule, matcher, sampler row, trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from opentelemetry.trace import Span
from torch import Tensor

from bough.executor.orders import Admission
from bough.executor.sampling import StopRule
from bough.executor.sequence import Sequence as Row


class Matcher(Protocol):
    """Follows one sequence through a compiled grammar."""

    def fill(self, bitmask: Tensor, line: int) -> None:
        """Write what is allowed next into `bitmask[line]`, int32 words."""

    def accept(self, token: int) -> bool:
        """Advance; False when the grammar does not allow the token."""

    def forced(self, most: int, least_chance: float) -> Sequence[int]:
        """Tokens that probably stand for the text that must follow; others may be as right.

        Args:
            most: tokens at most.
            least_chance: that a token and all before it are right; with less it is left out.
        """

    def rollback(self, num_tokens: int) -> None:
        """Go back before the last accepted tokens."""

    @property
    def batched(self) -> object | None:
        """Xgrammar's matcher, where that alone knows what is allowed next."""

    def suspect(self) -> None:
        """Time the next masks by themselves, and refuse them where they take too long."""

    @property
    def is_done(self) -> bool:
        """The grammar allows nothing more."""


@dataclass(slots=True, kw_only=True, eq=False)
class Running:
    """One request inside the engine."""

    admission: Admission
    sequence: Row
    stop: StopRule
    matcher: Matcher | None = None
    sampler_row: int | None = None
    """Row under which the sampler knows the sequence; None before its first token and after a retraction."""
    is_started: bool = False
    is_plain: bool = False
    """Its tokens need no more than a look at the stop rule: it has started and has no grammar."""
    is_ended: bool = False
    """What steps under way still bring for it counts for nothing."""
    span: Span | None = None

    @property
    def request(self) -> int:
        """The request's id."""
        return self.admission.request
