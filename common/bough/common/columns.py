"""Tokens of many requests in columns: what travels once per engine step instead of a message per token."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from bough.common.sampling import FinishReason, TokenLogprobs


@dataclass(slots=True)
class TokenRow:
    """One request's share of a batch: its tokens from `position` on, and perhaps its end."""

    request: int
    position: int
    tokens: list[int]
    finish: FinishReason = FinishReason.NONE
    logprobs: list[TokenLogprobs] | None = None
    """One entry a token, or None where the request asked for none."""


@dataclass(slots=True)
class TokenBatch:
    """Rows in columns; grows by `append`, is read by `rows`. Lists of one index belong together."""

    requests: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    finish: list[int] = field(default_factory=list)
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """Index into `tokens` -> log probabilities."""

    def __len__(self) -> int:
        return len(self.requests)

    def append(self, request: int, position: int, token: int, finish: int = 0) -> None:
        """Add a row of one token; the common case, kept cheap."""
        self.requests.append(request)
        self.positions.append(position)
        self.counts.append(1)
        self.tokens.append(token)
        self.finish.append(finish)

    def append_row(self, row: TokenRow) -> None:
        """Add a row of any number of tokens."""
        if row.logprobs is not None:
            self.logprobs.update(enumerate(row.logprobs, start=len(self.tokens)))
        self.requests.append(row.request)
        self.positions.append(row.position)
        self.counts.append(len(row.tokens))
        self.tokens.extend(row.tokens)
        self.finish.append(int(row.finish))

    def extend(self, other: TokenBatch) -> None:
        """Add all rows of another batch."""
        if other.logprobs:
            start = len(self.tokens)
            self.logprobs.update((start + index, entry) for index, entry in other.logprobs.items())
        self.requests.extend(other.requests)
        self.positions.extend(other.positions)
        self.counts.extend(other.counts)
        self.tokens.extend(other.tokens)
        self.finish.extend(other.finish)

    def rows(self) -> Iterator[TokenRow]:
        """The rows, one object each."""
        start = 0
        with_logprobs = bool(self.logprobs)
        for request, position, count, finish in zip(
            self.requests, self.positions, self.counts, self.finish, strict=True
        ):
            end = start + count
            logprobs = None
            if with_logprobs and count and start in self.logprobs:
                logprobs = [self.logprobs[i] for i in range(start, end)]
            yield TokenRow(request, position, self.tokens[start:end], FinishReason(finish), logprobs)
            start = end
