"""How long a matcher takes with a grammar, tried out before anybody is made to wait for it.

A matcher follows all ways at once in which a text so far may have been derived. An ambiguous grammar such as
`root ::= root root | [a-z]` has ever more of them, and a token then takes seconds, in which an executor would compute
for nobody.
"""

from __future__ import annotations

import random
import time
from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt
import xgrammar

MAX_STEP_S = 0.05
"""Time on a processor for one token: a hundred times what ordinary grammars take."""

_NUM_TOKENS = 24
_NUM_WALKS = 2
_NUM_WORDS = 8
_WORD_BITS = 32


class Probe:
    """Tries grammars of one vocabulary.

    Args:
        token_sizes: [V], bytes of each token.
        stop_token_ids: Ids that end an output.
    """

    def __init__(self, token_sizes: npt.NDArray[np.int64], stop_token_ids: Collection[int]) -> None:
        self._token_sizes = token_sizes
        self._stop_token_ids = list(stop_token_ids)
        self._bitmask = xgrammar.allocate_token_bitmask(1, len(token_sizes))

    def slowest_step_s(self, compiled: Any) -> float:
        """The longest that a token of some outputs takes; ends with the first one above `MAX_STEP_S`."""
        source = random.Random(0)
        slowest_s = 0.0
        for _ in range(_NUM_WALKS):
            matcher = xgrammar.GrammarMatcher(compiled)
            for _ in range(_NUM_TOKENS):
                # Masks are made when they are first asked for, and only then take long.
                matcher.fill_next_token_bitmask(self._bitmask, 0)
                # The first time makes masks that later texts find made; how many ways there are shows the second time.
                matcher.fill_next_token_bitmask(self._bitmask, 0)
                start_s = time.thread_time()
                is_free = not matcher.fill_next_token_bitmask(self._bitmask, 0)
                token = None if is_free else self._choose(source)
                if token is None or not matcher.accept_token(token):
                    break
                slowest_s = max(slowest_s, time.thread_time() - start_s)
                if slowest_s > MAX_STEP_S:
                    return slowest_s
        return slowest_s

    def _choose(self, source: random.Random) -> int | None:
        """One of the longer tokens that the mask allows; None where it allows only an end."""
        words: npt.NDArray[np.uint32] = self._bitmask[0].numpy().view(np.uint32)
        for token in self._stop_token_ids:
            words[token // _WORD_BITS] &= ~np.uint32(1 << token % _WORD_BITS)
        places = np.flatnonzero(words)
        if not len(places):
            return None
        chosen = [int(places[source.randrange(len(places))]) for _ in range(_NUM_WORDS)]
        tokens = [
            place * _WORD_BITS + bit for place in chosen for bit in range(_WORD_BITS) if int(words[place]) >> bit & 1
        ]
        known = [token for token in tokens if token < len(self._token_sizes)]
        return max(known, key=lambda token: int(self._token_sizes[token]), default=None)
