"""How many prompt tokens may join the decodes of a step: a number that somebody gave, or what measured times allow.

The times are those of a step's parts at start-up, since what a token of a prompt costs beside a decode differs by an
order of magnitude between models.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

DEFAULT_MIXED_TOKENS = 256
"""Where nobody gave a number and nothing was measured."""

SHARE = 0.5
"""How much longer one share of prompts may make a step, as a part of what its decodes take alone."""

LEAST_TOKENS = 128
"""A share that is measured has as many at least, so that half of it lets a prompt move on; see `LEAST_CHUNK`."""

_FEW = 32
"""Drafts that one row alone may have."""

NO_END = 1 << 30
"""Tokens of a step that are not bounded here."""


class MixedBudget(Protocol):
    """Says how many tokens of prompts may join decodes."""

    @property
    def step_tokens(self) -> int:
        """Tokens that a step with decodes and chunks should not outgrow, whatever they cost."""
        ...

    def tokens(self, num_decodes: int, context_tokens: int, shares: float) -> float:
        """The number for one step.

        Args:
            num_decodes: rows that decode in it, at least 1.
            context_tokens: of all of them together.
            shares: how many shares there are for the prompts that wait, at least 1.
        """
        ...


@dataclass(frozen=True, slots=True)
class FixedBudget:
    """So many tokens a share."""

    share: int

    @property
    def step_tokens(self) -> int:
        """See `MixedBudget`."""
        return NO_END

    def tokens(self, num_decodes: int, context_tokens: int, shares: float) -> float:
        """See `MixedBudget`."""
        return self.share * shares


@dataclass(frozen=True, slots=True, kw_only=True)
class TimedBudget:
    """As many tokens as fit into the time of the shares; steps are padded to the next size that was measured.

    What a chunk sees of its own context is not in it: that is for the cost of a token, see `ChunkBudget`.
    """

    decode: Mapping[int, float]
    """Rows, ascending -> seconds of a whole step in which they decode without a context."""
    layers: Mapping[int, float]
    """Tokens, ascending -> seconds of all layers over a step with chunks, without contexts."""
    sample: Mapping[int, float]
    """Rows, ascending -> seconds of head and sampling after it."""
    context_s: float
    """Seconds that a step takes longer for a token of a decode's context."""

    @property
    def step_tokens(self) -> int:
        """The largest that was measured: without a graph a step takes as long as its launches."""
        return max(self.layers)

    def tokens(self, num_decodes: int, context_tokens: int, shares: float) -> float:
        """See `MixedBudget`."""
        alone = _at(self.decode, num_decodes)
        longer = SHARE * shares * (alone + context_tokens * self.context_s)
        bound = alone - _at(self.sample, num_decodes) + longer
        fitting = max((size for size, seconds in self.layers.items() if seconds <= bound), default=0)
        return max(fitting - num_decodes, LEAST_TOKENS)

    def token_cost(self, num_rows: int) -> float:
        """What a token more and its line of logits cost in a step of so many rows, as a part of a row's share of it.

        On average of as many more as there are rows, or as one row may have, since steps are padded.
        """
        more = _slope(self.layers, num_rows) + _slope(self.sample, num_rows)
        return min(more * num_rows / _at(self.decode, num_rows), 1.0)


def _size(times: Mapping[int, float], needed: int) -> int:
    """The first that is large enough, or the largest."""
    sizes = list(times)
    return sizes[min(bisect_left(sizes, needed), len(sizes) - 1)]


def _at(times: Mapping[int, float], needed: int) -> float:
    return times[_size(times, needed)]


def _slope(times: Mapping[int, float], number: int) -> float:
    """Seconds that one more takes, of so many more as there are or `_FEW`; nothing is known beyond the largest."""
    first, last = _size(times, number), _size(times, number + max(number, _FEW))
    return max(times[last] - times[first], 0.0) / (last - first) if last > first else 0.0
