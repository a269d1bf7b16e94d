"""What the scheduler tells the executor, and what the executor says after a step: plain data, no protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bough.common.columns import TokenBatch, TokenRow
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import FinishReason, SamplingParams

if TYPE_CHECKING:
    from bough.executor.bases import Base
    from bough.executor.running import Matcher


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One request to run; siblings of one order share the same prompt list."""

    request: int
    prompt: Sequence[int]
    """Behind the base; at least one token."""
    produced: Sequence[int]
    """Tokens produced before, by this executor or another one."""
    sampling: SamplingParams
    cache_namespace: bytes
    order: int
    """Smaller is computed first and retracted last."""
    traceparent: str
    base: Base | None = None
    """What the prompt begins with."""
    matcher: Matcher | None = None
    """At the beginning of the grammar that `sampling` names; must be there when the engine gets the admission."""

    @property
    def num_prompt(self) -> int:
        """Tokens of the whole prompt."""
        return len(self.prompt) + (0 if self.base is None else self.base.num_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that was ordered in terms this version does not know."""

    failure: RequestFailure
    position: int
    """Tokens that the request had produced before."""


@dataclass(slots=True, kw_only=True)
class Orders:
    """What is applied between two steps; cancels before admissions."""

    number: int = 0
    """Counts what is sent to the engine; its reports name the last one applied."""
    admissions: list[Admission] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    without_base: list[int] = field(default_factory=list)
    """Requests whose base is not known: they have to be ordered again with the whole prompt."""
    released_bases: list[Base] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    token_budget: int | None = None
    """Tokens computed in one step at most; 0 for the executor's own limit, None for no change."""
    queued: int | None = None
    """Requests that wait at the scheduler; None for no change."""
    retract_order: Sequence[int] | None = None
    """The first one gives way first, those not named keep the order of admission; None for no change."""

    def __bool__(self) -> bool:
        """Whether there is anything to do for the engine."""
        changes = (self.token_budget, self.queued, self.retract_order)
        lists = (self.admissions, self.cancels, self.released_bases)
        return any(lists) or any(change is not None for change in changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What fits; measured at start."""

    num_pages: int
    page_size: int
    max_rows: int
    token_budget: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """State after a step."""

    running: int
    waiting: int
    pages_used: int
    pages_cached: int
    pages_free: int
    step_us: int
    prefill_tokens: int = 0
    """Prompt tokens computed since the start, those of steps under way included, but not what is computed again."""


@dataclass(slots=True, kw_only=True)
class StepReport:
    """What happened in a step, or between two."""

    step: int = 0
    """0 for a report that follows no step."""
    applied: int = 0
    """Number of the last orders that were applied before."""
    tokens: TokenBatch = field(default_factory=TokenBatch)
    started: list[StartedRequest] = field(default_factory=list)
    retracted: list[int] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)
    without_base: list[int] = field(default_factory=list)
    cache_changes: dict[bytes, bool] = field(default_factory=dict)
    """Chained hash of a page (`bough.common.prefix_hash`) -> whether the cache holds it now."""
    cache_cleared: bool = False
    """The changes begin with an empty cache."""
    gauges: Gauges | None = None

    def add_failure(self, failure: RequestFailure, position: int) -> None:
        """Note the failure and the row that goes with it."""
        self.failures.append(failure)
        self.tokens.append_row(TokenRow(failure.request, position, [], FinishReason.ERROR))
