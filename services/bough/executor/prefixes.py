"""Which prefixes are being computed right now, and who waits for them instead of computing them twice."""

from __future__ import annotations

from bough.common.prefix_hash import TOKEN_BYTES, page_hash
from bough.executor.cache.packed import common_pages
from bough.executor.sequence import Sequence


class PrefixesInProgress:
    """Registry of prefills by the hash of the next full page that each computes.

    Two prompts share a page that is not cached yet exactly if the cached match of the one that comes later ends where
    the other's published pages end, and their next pages have the same chained hash: one look-up, no comparison of
    prompts against each running prefill.
    """

    def __init__(self, *, page_size: int) -> None:
        self._page_size = page_size
        self._computing: dict[bytes, Sequence] = {}

    def register(self, sequence: Sequence, parent_hash: bytes) -> None:
        """Says that `sequence` computes the page after its published ones (whose end has `parent_hash`)."""
        self.unregister(sequence)
        end = (sequence.num_published + 1) * self._page_size
        if sequence.is_diverted or end > sequence.num_tokens:
            return
        next_hash = page_hash(parent_hash, sequence.packed(end - self._page_size, end))
        if next_hash not in self._computing:
            self._computing[next_hash] = sequence
            sequence.page_in_progress = next_hash

    def unregister(self, sequence: Sequence) -> None:
        """Says that `sequence` no longer computes the page it was registered for."""
        if sequence.page_in_progress is not None:
            del self._computing[sequence.page_in_progress]
            sequence.page_in_progress = None

    def find(self, parent_hash: bytes, next_page: bytes) -> Sequence | None:
        """Who computes the page with these tokens after the prefix `parent_hash`; a short page is nobody's."""
        if not self._computing or len(next_page) < self._page_size * TOKEN_BYTES:
            return None
        return self._computing.get(page_hash(parent_hash, next_page))

    def park(self, waiter: Sequence, computing: Sequence) -> None:
        """Makes `waiter` wait until `computing` published all full pages that both share."""
        # What both have of one base need not be compared.
        first = waiter.num_base // self._page_size if waiter.base is computing.base else 0
        start = first * self._page_size
        shared = first + common_pages(
            waiter.packed(start, waiter.num_tokens),
            computing.packed(start, computing.num_tokens),
            0,
            self._page_size * TOKEN_BYTES,
        )
        waiter.waits_for = computing
        waiter.awaited_pages = shared
        computing.waiters.append(waiter)

    def unpark(self, waiter: Sequence) -> None:
        """Ends a wait."""
        assert waiter.waits_for is not None
        waiter.waits_for.waiters.remove(waiter)
        waiter.waits_for = None

    def woken(self, computing: Sequence) -> list[Sequence]:
        """Ends the waits that `computing` has fulfilled, or all if it is registered no more; returns the waiters."""
        if not computing.waiters:
            return []
        is_over = computing.page_in_progress is None
        ready = [waiter for waiter in computing.waiters if is_over or waiter.awaited_pages <= computing.num_published]
        for waiter in ready:
            self.unpark(waiter)
        return ready
