"""What waits to be said: to a gateway in columns, to the scheduler as lists."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bough.common.columns import TokenBatch, TokenRow
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, Submission
from bough.common.sampling import FinishReason


@dataclass(slots=True)
class TextBatch:
    """Text of many requests, in columns; row i is `tokens.requests[i]`."""

    tokens: TokenBatch = field(default_factory=TokenBatch)
    offsets: list[int] = field(default_factory=list)
    """Where each row's text begins in the text of its request, in characters."""
    texts: list[str] = field(default_factory=list)
    stop_strings: list[str] = field(default_factory=list)
    """For rows that ended with STOP_STRING, in row order."""


@dataclass(slots=True)
class Outgoing:
    """What a gateway is told in one message."""

    text: TextBatch = field(default_factory=TextBatch)
    started: list[StartedRequest] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)


class GatewayOutbox:
    """Gathers what one gateway stream is to be told.

    Args:
        wake: Called when something was gathered.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self.wake = wake
        self._outgoing = Outgoing()
        self._backlog = 0

    def add_token(self, request: int, position: int, token: int, offset: int, text: str) -> None:
        """One token that ends nothing; the common case. The caller wakes once for all rows of a step."""
        batch = self._outgoing.text
        batch.tokens.append(request, position, token)
        batch.offsets.append(offset)
        batch.texts.append(text)
        self._backlog += 1

    def add_row(self, row: TokenRow, offset: int, text: str, stop_string: str) -> None:
        """Any row; the caller wakes."""
        batch = self._outgoing.text
        batch.tokens.append_row(row)
        batch.offsets.append(offset)
        batch.texts.append(text)
        if row.finish is FinishReason.STOP_STRING:
            batch.stop_strings.append(stop_string)
        self._backlog += max(1, len(row.tokens))

    def add_started(self, started: StartedRequest) -> None:
        """A request's prompt has been computed; the caller wakes."""
        self._outgoing.started.append(started)

    def add_failure(self, failure: RequestFailure) -> None:
        """A request was refused or has failed."""
        self._outgoing.failures.append(failure)
        self.wake()

    def backlog(self) -> int:
        """Tokens gathered and not yet collected."""
        return self._backlog

    def collect(self) -> Outgoing | None:
        """Everything gathered, which is then forgotten; None when there is nothing."""
        outgoing = self._outgoing
        if not (outgoing.text.texts or outgoing.started or outgoing.failures):
            return None
        self._outgoing, self._backlog = Outgoing(), 0
        return outgoing


@dataclass(slots=True)
class Upstream:
    """What the scheduler is told in one message."""

    submissions: list[Submission] = field(default_factory=list)
    resumes: list[ResumePoint] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    stopped: list[tuple[int, int]] = field(default_factory=list)
    """(request, how many of its tokens count)."""
    released: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.submissions or self.resumes or self.cancels or self.stopped or self.released)
