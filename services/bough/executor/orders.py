"""What the scheduler tells the executor, and what the executor says after a step: plain data, no protobuf."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bough.common.columns import TokenBatch
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import SamplingParams


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """One request to run; siblings of one order share the same prompt list."""

    request: int
    prompt: Sequence[int]
    produced: Sequence[int]
    """Tokens produced before, by this executor or another one."""
    sampling: SamplingParams
    cache_namespace: bytes
    order: int
    """Smaller is computed first and retracted last."""
    traceparent: str


@dataclass(slots=True, kw_only=True)
class Orders:
    """What is applied between two steps."""

    admissions: list[Admission] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    retract_order: Sequence[int] = ()
    """The first one gives way first; empty leaves the order of admission."""


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


@dataclass(slots=True, kw_only=True)
class StepReport:
    """What happened in a step, or between two."""

    step: int = 0
    """0 for a report that follows no step."""
    tokens: TokenBatch = field(default_factory=TokenBatch)
    started: list[StartedRequest] = field(default_factory=list)
    retracted: list[int] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)
    pages_stored: list[bytes] = field(default_factory=list)
    """Chained hashes (`bough.common.prefix_hash`)."""
    pages_removed: list[bytes] = field(default_factory=list)
    gauges: Gauges | None = None
