"""A client call as it travels from the gateway to the scheduler, and what comes back besides tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from bough.common.sampling import SamplingParams, TextOptions


@dataclass(frozen=True, slots=True)
class StateRef:
    """A state of a program: the program's id, 16 bytes, and the client's number of the state."""

    program: bytes
    state: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One prompt and the requests (siblings) that continue it. Sibling i uses seed + i modulo 2^64."""

    requests: tuple[int, ...]
    prompt: Sequence[int]
    sampling: SamplingParams
    text: TextOptions = field(default_factory=TextOptions)
    cache_namespace: bytes = b""
    priority: int = 0
    traceparent: str = ""
    name: str = ""
    deadline_unix_ms: int = 0
    """0: none."""
    base: StateRef | None = None
    """What goes before `prompt`; the scheduler puts it there."""
    base_tail: tuple[int, ...] = ()
    """The last tokens of `base`, at most 16, for who decodes the first token; fewer where it has no more."""


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """Where a consumer wants to go on with a request."""

    request: int
    position: int
    text_offset: int = 0
    """Characters of text received; used between gateway and detokenizer only."""


@dataclass(frozen=True, slots=True)
class RequestFailure:
    """A request that was refused or has failed, in words and a gRPC status number."""

    request: int
    code: int
    message: str
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class StartedRequest:
    """A request whose prompt has been computed."""

    request: int
    cached_tokens: int
