"""What an executor was told of prompts that several requests begin with, so that orders name it in place of tokens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from bough.scheduler.prompts import SharedPrompt

MIN_BASE_TOKENS = 256
"""A base saves at least so many tokens to be sent again; fewer cost less than to keep one more base."""

MAX_BASE_TOKENS = 1 << 23
"""Of all bases of an executor together, those that they share counted for each; some 40 MB there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBase:
    """A base that an executor is told of."""

    id: int
    parent: int
    """Base that it begins with, 0 for none."""
    tokens: Sequence[int]
    """Behind those of the parent."""
    cache_namespace: bytes


class KnownBases:
    """The bases of one executor.

    The base of a prompt is all of it but its last token, which is computed for each request anew. So it serves requests
    that have just this prompt as well as those whose prompt goes on.

    Args:
        least_tokens: A base must save so many.
        most_tokens: With more, those that were named longest ago are released.
    """

    def __init__(self, *, least_tokens: int = MIN_BASE_TOKENS, most_tokens: int = MAX_BASE_TOKENS) -> None:
        self._least_tokens = least_tokens
        self._most_tokens = most_tokens
        self._ids: OrderedDict[SharedPrompt, int] = OrderedDict()
        """Those that were named last at the end."""
        self._num_tokens = 0
        self._last_id = 0
        self._fresh: list[NewBase] = []
        self._released: list[int] = []

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def has_news(self) -> bool:
        """Whether the executor has to be told something."""
        return bool(self._fresh or self._released)

    def find(self, prompt: SharedPrompt, cache_namespace: bytes) -> tuple[int, int]:
        """The base of a prompt, made where it is worth it: its number, and how many tokens it has; (0, 0) for none."""
        base, num_tokens = 0, 0
        for part in prompt.parts():
            length, known = len(part.tokens) - 1, self._ids.get(part)
            if known is None and part.is_kept and length - num_tokens >= self._least_tokens:
                known = self._ids[part] = self._last_id = self._last_id + 1
                self._num_tokens += length
                tokens = part.tokens[num_tokens:length]
                self._fresh.append(NewBase(id=known, parent=base, tokens=tokens, cache_namespace=cache_namespace))
            if known is not None:
                self._ids.move_to_end(part)
                base, num_tokens = known, length
        while self._num_tokens > self._most_tokens and (oldest := next(iter(self._ids))).tokens is not prompt.tokens:
            self.release(oldest)
        return base, num_tokens

    def release(self, prompt: SharedPrompt) -> bool:
        """No further order will name the base of a prompt; whether the executor has to hear of it."""
        known = self._ids.pop(prompt, None)
        if known is None:
            return False
        self._num_tokens -= len(prompt.tokens) - 1
        self._released.append(known)
        return True

    def release_all(self) -> None:
        """No further order will name a base that was made until now."""
        for prompt in list(self._ids):
            self.release(prompt)

    def clear(self) -> None:
        """A new stream opens, and the executor knows no base. Numbers go on."""
        self.release_all()
        self._fresh, self._released = [], []

    def collect(self) -> tuple[list[NewBase], list[int]]:
        """What the next message has to say: bases to learn before its orders, and numbers of those to forget after."""
        news = self._fresh, self._released
        self._fresh, self._released = [], []
        return news
