"""What grammars allow next, asked of many matchers at once."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from bough.executor.running import Matcher, Running

if TYPE_CHECKING:
    import xgrammar

logger = logging.getLogger(__name__)

FREE_BATCH_S = 0.02
"""Processor time that the masks of all rows may take together before each is timed."""


class MaskFiller:
    """Fills the masks of a step. Not thread-safe.

    xgrammar is asked for all rows in one call where it can be: a call costs more than the look-up that it makes. How
    long each took is not known then: where it was too long for all together, they are asked one by one for a while.
    """

    def __init__(self) -> None:
        self._batch: xgrammar.BatchGrammarMatcher | None = None

    def fill(self, entries: Sequence[Running], bits: Tensor) -> dict[int, str]:
        """Write the mask of each entry; one that stands there again is asked for what follows its next draft.

        Args:
            entries: with matchers; those of one sequence stand side by side.
            bits: [G, W] int32, the words of entry i in row i.

        Returns:
            Indices whose matcher failed, with the reason; everything is allowed there, and the token must be dropped.
        """
        failed: dict[int, str] = {}
        bits[: len(entries)] = -1  # what is not written allows all
        matchers: list[Any] = []
        indices: list[int] = []
        for entry, places in groupby(range(len(entries)), key=lambda index: entries[index]):
            first, *drafted = places
            if not drafted and (known := _matcher(entry).batched) is not None:
                matchers.append(known)
                indices.append(first)
            else:
                self._fill_drafts(entry, (first, *drafted), bits, failed)
        start_s = time.thread_time()
        if len(matchers) == 1 or (matchers and not self._fill_batch(matchers, indices, bits)):
            for index in indices:
                self._fill_drafts(entries[index], (index,), bits, failed)
        elif time.thread_time() - start_s > FREE_BATCH_S:
            for index in indices:
                _matcher(entries[index]).suspect()
        return failed

    def _fill_batch(self, matchers: list[Any], indices: list[int], bits: Tensor) -> bool:
        if self._batch is None:
            import xgrammar

            self._batch = xgrammar.BatchGrammarMatcher(max_threads=1)
        try:
            self._batch.batch_fill_next_token_bitmask(matchers, bits, indices)
        except Exception:
            return False  # one by one it turns out whose fault it is
        return True

    def _fill_drafts(self, entry: Running, places: Iterable[int], bits: Tensor, failed: dict[int, str]) -> None:
        """The masks of one sequence: after its last token, and after each draft."""
        matcher, num_accepted = _matcher(entry), 0
        for index, draft in zip(places, (*entry.sequence.drafts, None), strict=False):
            try:
                matcher.fill(bits, index)
                if draft is not None and matcher.accept(draft):
                    num_accepted += 1
            except Exception as error:
                if not isinstance(error, ValueError):
                    logger.error("a grammar mask cannot be filled", exc_info=error)
                failed[index] = f"the request cannot be sampled: {error}"
                bits[index] = -1
        matcher.rollback(num_accepted)


def _matcher(entry: Running) -> Matcher:
    assert entry.matcher is not None
    return entry.matcher
