"""Which waiting sequences start in a step: those that come first, as far as rows, pages and the chunk budget go.

Part of the composer. A sequence gets all pages of its tokens when it starts: those that the cache has by reference, the
last one of them, where it is needed only in part, as a copy.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable

from bough.common.prefix_hash import token_bytes
from bough.executor.cache import Match, Node, PagePool, RadixTree
from bough.executor.chunk_budget import ChunkBudget
from bough.executor.prefixes import PrefixesInProgress
from bough.executor.row_table import RowTable
from bough.executor.running_set import RunningSet, rank
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.step import ComposerLimits, PageCopy, StepPlan

Fail = Callable[[Sequence, StepPlan, str], None]


class Starter:
    """The waiting sequences.

    Args:
        pool: Where pages come from.
        tree: What is cached; gives pages up when the pool has none.
        table: The rows.
        running: Who has one; gets those that start.
        prefixes: Who computes what others may wait for.
        fail: Ends a sequence that can never start.
    """

    def __init__(
        self,
        *,
        pool: PagePool,
        tree: RadixTree,
        table: RowTable,
        running: RunningSet,
        prefixes: PrefixesInProgress,
        fail: Fail,
    ) -> None:
        self.may_start = True
        """Something has changed since the first one found no pages."""
        self.is_short_of_pages = False
        self._pool = pool
        self._tree = tree
        self._table = table
        self._running = running
        self._prefixes = prefixes
        self._fail = fail
        self._page_size = pool.page_size
        self._waiting: list[Sequence] = []  # by rank
        self._headroom_pages = 0
        self._tail_holds: list[Node] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def enqueue(self, sequences: Iterable[Sequence]) -> None:
        """Sequences wait from now on."""
        for sequence in sequences:
            sequence.status = SequenceStatus.WAITING
            insort(self._waiting, sequence, key=rank)
            self.may_start = True

    def remove(self, sequence: Sequence) -> None:
        """A sequence waits no more."""
        self._waiting.remove(sequence)

    def sort(self) -> None:
        """Ranks have changed."""
        self._waiting.sort(key=rank)
        self.may_start = True

    def note_release(self, sequence: Sequence) -> None:
        """A sequence that had started has given everything back."""
        self._headroom_pages -= sequence.headroom_pages
        self.may_start = True

    def take_pages(self, num_pages: int) -> list[int] | None:
        """So many pages, if need be of the cache; None, and none taken, if there are not enough."""
        missing = num_pages - self._pool.num_free
        if missing > 0:
            self._tree.evict(missing)
        return self._pool.allocate(num_pages) if self._pool.can_allocate(num_pages) else None

    def too_small(self, num_pages: int) -> str:
        """Why a sequence fails that needs more pages than there are."""
        whole = self._pool.num_pages
        return f"{num_pages} KV pages are needed, the whole pool has {whole} ({whole * self._page_size} tokens)"

    def start(self, plan: StepPlan, budget: ChunkBudget, limits: ComposerLimits) -> None:
        """Starts waiting sequences in order until rows, pages or budget end."""
        if not self.may_start and len(self._running):
            return
        self.is_short_of_pages = False
        while self._waiting and not budget.is_spent and self._table.can_allocate():
            sequence = self._waiting[0]
            if not self._has_valid_length(sequence, plan, limits):
                continue
            match = self._match(sequence)
            if self._park(sequence, match):
                continue
            if not self._admit(sequence, match, plan, limits):
                # Tried again when something was released or published, not at each step.
                self.may_start = False
                self.is_short_of_pages = True
                break
            del self._waiting[0]
            if sequence.status is SequenceStatus.DECODING:
                budget.spend(1, sequence.num_computed)
            else:
                budget.add(plan, sequence, self._page_size)
        for node in self._tail_holds:
            self._tree.unlock(node)
        self._tail_holds.clear()

    def pin_base(self, sequence: Sequence) -> None:
        """A sequence has published its whole prompt: what it begins with is in the cache, and is to stay there."""
        base = sequence.base
        if base is None or base.is_released or base.found is not None:
            return
        num_pages = base.num_tokens // self._page_size
        if num_pages and num_pages <= sequence.num_published:
            assert sequence.node is not None
            base.pin = self._tree.pin(sequence.node, (sequence.head + sequence.pages)[:num_pages])

    def start_decoding(self, sequence: Sequence, *, num_pending: int = 0) -> None:
        """All tokens of a sequence but the last are computed."""
        sequence.key = None
        self._table.start_decoding(sequence)
        sequence.num_pending += num_pending
        self._running.start_decoding(sequence)

    def _match(self, sequence: Sequence) -> Match:
        if sequence.key is None:
            sequence.key = token_bytes(sequence.tokens)
        tree, num_tokens, base = self._tree, sequence.num_tokens, sequence.base
        pin = None if base is None else base.found
        if base is not None and pin is None:
            match = tree.match(sequence.namespace, sequence.packed(0, num_tokens), num_tokens - 1)
            num_pages = base.num_tokens // self._page_size
            if base.is_released or match.node is None or not 0 < num_pages <= len(match.pages):
                return match
            # Somebody else has computed it. Matched again, since the pin may have cut the node in two.
            pin = base.pin = tree.pin(match.node, match.pages[:num_pages])
        start = 0 if pin is None else len(pin.pages) * self._page_size
        return tree.match(sequence.namespace, sequence.packed(start, num_tokens), num_tokens - 1 - start, pin)

    def _has_valid_length(self, sequence: Sequence, plan: StepPlan, limits: ComposerLimits) -> bool:
        num_tokens = sequence.num_tokens
        num_pages = -(-num_tokens // self._page_size)
        if num_tokens > limits.max_context:
            reason = f"{num_tokens} tokens exceed the maximum context of {limits.max_context} tokens"
        elif num_pages > self._pool.num_pages:
            reason = self.too_small(num_pages)
        else:
            return True
        self._fail(sequence, plan, reason)
        return False

    def _park(self, sequence: Sequence, match: Match) -> bool:
        """Lets the first waiting sequence wait for a prefix in progress, if its next page is being computed."""
        start = match.num_pages * self._page_size
        next_page = sequence.packed(start, start + self._page_size)
        computing = self._prefixes.find(match.page_hash, next_page)
        if computing is None:
            return False
        del self._waiting[0]
        sequence.status = SequenceStatus.PARKED
        self._prefixes.park(sequence, computing)
        return True

    def _admit(self, sequence: Sequence, match: Match, plan: StepPlan, limits: ComposerLimits) -> bool:
        """Gives a row, the cached pages and all further pages of its tokens to a sequence, if there are enough."""
        num_tokens = sequence.num_tokens
        remaining = max(sequence.params.max_tokens - sequence.num_generated, 0)
        headroom = min(-(-remaining // self._page_size), limits.headroom_pages)
        reserve = self._headroom_pages + headroom if len(self._running) else 0
        num_missing = -(-num_tokens // self._page_size) - match.num_pages
        node = self._tree.lock(match)
        tail = match.tail
        if tail is not None:
            self._tree.hold(tail.node)
            if num_missing + reserve > self._num_available:
                self._tree.unlock(tail.node)
                tail = None
        if num_missing + reserve > self._num_available:
            self._tree.unlock(node)
            return False
        pages = self.take_pages(num_missing)
        assert pages is not None
        if tail is not None:
            # Held until all of this step's pages are taken: a copy must not read what another one overwrites.
            self._tail_holds.append(tail.node)
            plan.copies.append(PageCopy(tail.page, pages[0]))
        sequence.node = node
        num_cached = sequence.num_published = match.num_pages
        sequence.num_computed = num_cached * self._page_size + (tail.num_tokens if tail is not None else 0)
        sequence.pages = match.pages + pages
        if match.pin is None:
            sequence.row = self._table.allocate(sequence.pages)
        else:
            sequence.head = match.pin.pages
            sequence.row = self._table.allocate(sequence.pages, match.pin.page_array)
        sequence.headroom_pages = headroom
        self._headroom_pages += headroom
        if not sequence.was_admitted:
            sequence.was_admitted = True
            sequence.num_cached_tokens = sequence.num_computed
        self._start(sequence, match.page_hash)
        return True

    def _start(self, sequence: Sequence, page_hash: bytes) -> None:
        if sequence.num_uncomputed == 1:
            self.start_decoding(sequence)
            return
        self._running.start_prefilling(sequence)
        self._prefixes.register(sequence, page_hash)

    @property
    def _num_available(self) -> int:
        return self._pool.num_free + self._tree.num_evictable_pages
