"""Thoughts before an answer: a grammar waits until they end, and they end when they have had their tokens."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import numpy as np
from torch import Tensor

from bough.common.sampling import Reasoning
from bough.executor.running import Matcher

_WORD_BITS = 32


class AnswerMatcher(Matcher, Protocol):
    """What follows the answer."""

    def accept_text(self, data: bytes) -> bool:
        """Advance by text that is no token of its own; False when the grammar does not allow it."""
        ...


class ReasoningMatcher:
    """See `Matcher`. Everything may be thought; after the thoughts the answer has its own matcher.

    Args:
        reasoning: How thoughts end, and when they must.
        answer: Follows what comes after; None: nothing is asked of it.
        token_bytes: Text of each token, that of special tokens too: the end may be one.
        stop_token_ids: May not end the output while a grammar has yet to begin.
    """

    def __init__(
        self,
        reasoning: Reasoning,
        answer: AnswerMatcher | None,
        *,
        token_bytes: Sequence[bytes],
        stop_token_ids: Collection[int],
    ) -> None:
        self._reasoning = reasoning
        self._answer = answer
        self._token_bytes = token_bytes
        self._stop_token_ids = tuple(stop_token_ids)
        self._end = reasoning.end.encode()
        self._tail = b""
        self._num_tokens = 0
        self._closing = list(reversed(reasoning.closing_ids)) if reasoning.max_tokens == 0 else []
        self._has_answer = reasoning.max_tokens == 0 and not self._closing

    def fill(self, bitmask: Tensor, line: int) -> None:
        """Write what is allowed next into `bitmask[line]`, int32 words."""
        if self._has_answer and self._answer is not None:
            self._answer.fill(bitmask, line)
        elif self._closing:
            bitmask[line] = 0
            _set(bitmask[line], self._closing[-1], True)
        else:
            bitmask[line] = -1
            if self._answer is not None:
                for token in self._stop_token_ids:
                    _set(bitmask[line], token, False)

    def accept(self, token: int) -> bool:
        """Advance; False when the token may not follow."""
        if self._has_answer:
            return self._answer is None or self._answer.accept(token)
        if self._closing:
            expected = self._closing.pop()
            self._has_answer = not self._closing
            return token == expected
        return self._think(token)

    def forced(self, most: int, least_chance: float) -> Sequence[int]:
        """Tokens that probably stand for the text that must follow; none while the model thinks."""
        return self._answer.forced(most, least_chance) if self._has_answer and self._answer is not None else ()

    def rollback(self, num_tokens: int) -> None:
        """Go back before the last accepted tokens, which are of the answer."""
        if num_tokens and self._answer is not None:
            self._answer.rollback(num_tokens)

    @property
    def batched(self) -> object | None:
        """The answer's, once it has begun."""
        return self._answer.batched if self._has_answer and self._answer is not None else None

    def suspect(self) -> None:
        """Have the answer's masks timed."""
        if self._answer is not None:
            self._answer.suspect()

    @property
    def is_done(self) -> bool:
        """The answer's grammar allows nothing more."""
        return self._has_answer and self._answer is not None and self._answer.is_done

    def _think(self, token: int) -> bool:
        self._num_tokens += 1
        self._tail += self._token_bytes[token]
        _, end, rest = self._tail.partition(self._end)
        if end:
            self._has_answer = True
            # A token may go on behind the end. White space there is of no use to any grammar.
            return self._answer is None or not rest.strip() or self._answer.accept_text(rest)
        self._tail = self._tail[max(0, len(self._tail) - len(self._end) + 1) :]
        limit = self._reasoning.max_tokens
        if limit is not None and self._num_tokens >= limit:
            self._closing = list(reversed(self._reasoning.closing_ids))
            self._has_answer = not self._closing
        return True


def _set(words: Tensor, token: int, allowed: bool) -> None:
    bits = words.numpy().view(np.uint32)
    word, bit = divmod(token, _WORD_BITS)
    if word < len(bits):
        bits[word] = bits[word] | np.uint32(1 << bit) if allowed else bits[word] & ~np.uint32(1 << bit)
