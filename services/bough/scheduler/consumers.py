"""The stream of a detokenizer: what is gathered for it until its transport takes the next message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import BoughError
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import TextOptions
from bough.scheduler.requests import RequestRecord

RESUME_TOKENS_PER_MESSAGE = 1 << 18
"""Resumes are spread over messages of about this many tokens, far below the size limit of one."""

_LOGPROBS_WEIGHT = 32
"""A token with its log probabilities and alternatives weighs as much as so many without, roughly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResumedRequest:
    """What is needed to rebuild the text state of a request."""

    request: int
    text: TextOptions
    prompt_tail: tuple[int, ...]
    prompt_tokens: int
    name: str


@dataclass(slots=True, kw_only=True)
class ConsumerUpdate:
    """One message to a consumer."""

    tokens: TokenBatch = field(default_factory=TokenBatch)
    started: list[StartedRequest] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)
    resumed: list[ResumedRequest] = field(default_factory=list)


class Consumer:
    """One stream of a consumer. A new stream of the same peer is a new consumer.

    Args:
        peer: Its name, for logs.
        wake: Called when there is something to collect.
        cut: Called to end the stream with an error.
        identity: The model it holds, where it said so.
    """

    def __init__(
        self,
        peer: str,
        *,
        wake: Callable[[], None],
        cut: Callable[[BoughError], None],
        identity: ModelIdentity | None = None,
    ) -> None:
        self.peer = peer
        self.wake = wake
        self.cut = cut
        self.identity = identity
        self.live = True
        """False once its stream broke; its requests then wait to be resumed by another one."""
        self.records: dict[int, RequestRecord] = {}
        """The requests that belong to it."""
        self.pending = ConsumerUpdate()
        self._resumes: dict[RequestRecord, int] = {}
        self._resumes_wait = False

    @property
    def has_news(self) -> bool:
        """Whether `collect` would return something."""
        update = self.pending
        return bool(update.tokens.requests or self._resumes or update.failures or update.started)

    def backlog(self) -> int:
        """Rows gathered. Resumes do not count: they are as large as they are, and cutting them off would not help."""
        return len(self.pending.tokens.requests)

    def fail(self, failure: RequestFailure) -> None:
        """Tell of a refused or failed request."""
        if self.live:
            self.pending.failures.append(failure)

    def resume(self, record: RequestRecord, position: int) -> None:
        """Send a request from a position on, and what follows it after that."""
        if record.sink is self:
            # What was gathered for it belongs to the time before; it must not arrive after the resume.
            self._resumes_wait = True
        record.sink = None
        self._resumes[record] = position

    def forget(self, record: RequestRecord) -> None:
        """A request leaves, to another consumer or for good."""
        self.records.pop(record.request, None)
        self._resumes.pop(record, None)
        record.sink = None

    def lose(self) -> None:
        """Its stream broke; what was gathered can only be had by a resume."""
        self.live = False
        self.pending = ConsumerUpdate()
        self._resumes.clear()
        for record in self.records.values():
            record.sink = None

    def collect(self) -> ConsumerUpdate | None:
        """The next message, or None when there is nothing to say."""
        if not self.has_news:
            return None
        update, self.pending = self.pending, ConsumerUpdate()
        if self._resumes_wait:
            self._resumes_wait = False
            if update.tokens.requests or update.failures or update.started:
                return update
        self._add_resumes(update)
        return update

    def _add_resumes(self, update: ConsumerUpdate) -> None:
        room = RESUME_TOKENS_PER_MESSAGE
        while self._resumes and room > 0:
            record = next(iter(self._resumes))
            position = self._resumes.pop(record)
            tokens = record.tokens[position:]
            logprobs = None if record.logprobs is None else record.logprobs[position:]
            room -= len(tokens) * (1 if logprobs is None else _LOGPROBS_WEIGHT) + 1
            update.resumed.append(
                ResumedRequest(
                    request=record.request,
                    text=record.submission.text,
                    prompt_tail=record.prompt_tail,
                    prompt_tokens=len(record.submission.prompt),
                    name=record.submission.name,
                )
            )
            if record.cached_tokens is not None:
                update.started.append(StartedRequest(record.request, record.cached_tokens))
            if record.failure is not None:
                update.failures.append(record.failure)
            update.tokens.append_row(TokenRow(record.request, position, tokens, record.finish, logprobs))
            record.sink = self
