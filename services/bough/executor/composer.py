"""The step composer: which running rows compute how many tokens in the next step, and who may start or must give way.

All decodes first, one token each; then prefill chunks in the scheduler's order under the token budget, those already
started before new ones. Pages of a whole prompt are taken at admission, so only decodes ever run short; then the
sequence that comes last in the order gives way. Nothing here knows what a token or a page means to the model.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable
from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bough.common.prefix_hash import TOKEN_BYTES
from bough.executor.cache.pages import PagePool
from bough.executor.cache.radix import Match, Node, RadixTree
from bough.executor.prefixes import PrefixesInProgress
from bough.executor.row_table import RowTable
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.step import FailedSequence, PageCopy, RowWork, StepPlan

_HAS_ROW = (SequenceStatus.PREFILLING, SequenceStatus.DECODING)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComposerLimits:
    """What one step and one sequence may use at most."""

    max_rows: int
    token_budget: int
    """Tokens a step, decodes included; more than `max_rows`, so that prefills always move."""
    max_context: int
    """Tokens of one sequence, prompt and generated."""
    headroom_pages: int = 4
    """Pages that admission leaves free for each running row's next tokens (fewer if its `max_tokens` needs fewer)."""

    def __post_init__(self) -> None:
        """Refuses limits under which the composer could not make progress."""
        if self.max_rows < 1 or self.max_context < 1 or self.headroom_pages < 0:
            raise ValueError(f"max_rows and max_context must be positive, headroom_pages not negative: {self}")
        if self.token_budget <= self.max_rows:
            raise ValueError(f"token_budget must be greater than max_rows ({self.max_rows}), got {self.token_budget}")


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.order, sequence.request_id


class StepComposer:
    """Owns the sequences of an executor; `compose` and `complete` alternate, other calls may come at any time."""

    def __init__(self, *, pool: PagePool, tree: RadixTree, limits: ComposerLimits) -> None:
        self.limits = limits
        self._pool = pool
        self._tree = tree
        self._page_size = pool.page_size
        max_pages = -(-limits.max_context // pool.page_size)
        self.table = RowTable(max_rows=limits.max_rows, max_pages=max_pages, page_size=pool.page_size)
        self._prefixes = PrefixesInProgress(page_size=pool.page_size)
        self._sequences: dict[int, Sequence] = {}
        self._waiting: list[Sequence] = []  # by rank, as is _prefilling
        self._prefilling: list[Sequence] = []
        self._decoding: list[Sequence] = []
        self._decode_rows: npt.NDArray[np.int64] | None = None  # rows of _decoding; None when outdated
        self._headroom_pages = 0
        self._plan: StepPlan | None = None
        self._ending: list[Sequence] = []
        self._tail_holds: list[Node] = []
        self._may_admit = True

    @property
    def num_running(self) -> int:
        """Sequences that have a row."""
        return len(self._prefilling) + len(self._decoding)

    @property
    def num_waiting(self) -> int:
        """Sequences without a row: new, retracted, or waiting for a shared prefix."""
        return len(self._sequences) - self.num_running

    @property
    def num_pages_free(self) -> int:
        """Pages that hold nothing."""
        return self._pool.num_free

    @property
    def num_pages_cached(self) -> int:
        """Pages that only the cache holds and that can be taken any time."""
        return self._tree.num_evictable_pages

    @property
    def num_pages_used(self) -> int:
        """Pages of running sequences."""
        return self._pool.num_used - self._tree.num_evictable_pages

    @property
    def sequences(self) -> list[Sequence]:
        """All sequences that have not ended, in order of arrival."""
        return list(self._sequences.values())

    def get(self, request_id: int) -> Sequence | None:
        """The sequence of a request that has not ended."""
        return self._sequences.get(request_id)

    def add(self, sequence: Sequence) -> None:
        """Takes a new sequence, to start as its order, rows and pages allow.

        Raises:
            ValueError: the request id is in use, or there is no token.
        """
        if sequence.request_id in self._sequences:
            raise ValueError(f"request_id {sequence.request_id} is already here")
        if not sequence.tokens:
            raise ValueError(f"request {sequence.request_id} has no tokens")
        self._sequences[sequence.request_id] = sequence
        self._enqueue([sequence])

    def reorder(self, request_id: int, order: int) -> None:
        """Gives a sequence another rank; unknown requests are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        sequence.order = order
        self._waiting.sort(key=_rank)
        self._prefilling.sort(key=_rank)
        self._may_admit = True

    def cancel(self, request_id: int) -> Sequence | None:
        """Ends a request: at once, or at `complete` if it is part of the step under way. None if unknown."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self.finish(sequence)
        return sequence

    def finish(self, sequence: Sequence) -> None:
        """Ends a sequence: what it computed goes to the cache, its row and pages are given back. As `cancel`."""
        if sequence.status is SequenceStatus.ENDED:
            return
        plan = self._plan
        if plan is not None and sequence.status in _HAS_ROW and any(row is sequence for row in _sequences_of(plan)):
            if sequence not in self._ending:
                self._ending.append(sequence)
            return
        self._end(sequence)

    def compose(self) -> StepPlan | None:
        """Decides the next step; None if there is nothing to do or to report.

        Raises:
            RuntimeError: the last plan is not completed.
        """
        if self._plan is not None:
            raise RuntimeError("compose before the last plan was completed")
        plan = StepPlan()
        self._grow_decodes(plan)
        budget = self.limits.token_budget - len(self._decoding)
        for sequence in self._prefilling:
            if budget < 1:
                break
            budget -= self._add_chunk(sequence, plan, budget)
        # A step that took pages away starts nobody: the freed pages are for those who still run.
        if not plan.retracted or not self.num_running:
            self._admit_waiting(plan, budget)
        if self._decoding:
            plan.decodes = self._decoding.copy()
        if plan.num_rows:
            plan.arrays = self.table.assemble(self._current_decode_rows(), plan.chunks)
            self._plan = plan
        elif not plan.retracted and not plan.failed:
            return None
        return plan

    def complete(self, plan: StepPlan, tokens: Items[int]) -> None:
        """Records a computed step: the K/V of its rows is valid, and those that sampled have one more token.

        Args:
            plan: the last one of `compose` that had rows.
            tokens: one per sequence of `plan.sampling`, in that order.

        Raises:
            RuntimeError: the plan is not the one under way.
            ValueError: the number of tokens is wrong.
        """
        if plan is not self._plan:
            raise RuntimeError("this plan is not under way")
        num_decodes = len(plan.decodes)
        num_samples = num_decodes + sum(work.samples for work in plan.chunks)
        if len(tokens) != num_samples:
            raise ValueError(f"{num_samples} rows sample in this step, got {len(tokens)} tokens")
        self._plan = None
        if num_decodes:
            self._complete_decodes(plan, tokens[:num_decodes])
        self._complete_chunks(plan, iter(tokens[num_decodes:]))
        ending, self._ending = self._ending, []
        for sequence in ending:
            self._end(sequence)

    def abandon(self, plan: StepPlan) -> list[Sequence]:
        """Gives up a step that could not be computed: its sequences end, nothing of the step goes to the cache.

        Returns:
            The ended sequences, which the caller must report.

        Raises:
            RuntimeError: the plan is not the one under way.
        """
        if plan is not self._plan:
            raise RuntimeError("this plan is not under way")
        self._plan = None
        self._ending.clear()
        unsure = {copy.dst for copy in plan.copies}
        sequences = _sequences_of(plan)
        for sequence in sequences:
            if not unsure.isdisjoint(sequence.pages):
                sequence.num_computed = sequence.num_published * self._page_size
            self._end(sequence)
        return sequences

    def _complete_decodes(self, plan: StepPlan, tokens: Items[int]) -> None:
        assert plan.arrays is not None
        rows = plan.arrays.rows[: len(plan.decodes)]
        self.table.last_token[rows] = tokens
        self.table.position[rows] += 1
        for sequence, token in zip(plan.decodes, tokens, strict=True):
            sequence.tokens.append(token)
            sequence.num_computed += 1
        filled = np.flatnonzero(self.table.position[rows] % self._page_size == 0)
        for index in filled.tolist():
            self._publish(plan.decodes[index])

    def _complete_chunks(self, plan: StepPlan, tokens: Iterable[int]) -> None:
        next_tokens = iter(tokens)
        for work in plan.chunks:
            sequence = work.sequence
            sequence.num_computed += work.num_tokens
            self._publish(sequence, with_tail=work.samples)
            if work.samples:
                sequence.tokens.append(next(next_tokens))
                self._prefilling.remove(sequence)
                self._prefixes.unregister(sequence)
                self._start_decoding(sequence)
            else:
                assert sequence.node is not None
                self._prefixes.register(sequence, self._tree.end_hash(sequence.node))
            self._enqueue(self._prefixes.woken(sequence))
            self._may_admit = True

    # Rows that run.

    def _current_decode_rows(self) -> npt.NDArray[np.int64]:
        if self._decode_rows is None:
            self._decode_rows = np.array([sequence.row for sequence in self._decoding], np.int64)
        return self._decode_rows

    def _start_decoding(self, sequence: Sequence) -> None:
        sequence.status = SequenceStatus.DECODING
        sequence.key = None
        self._decoding.append(sequence)
        self._decode_rows = None
        self.table.start_decoding(sequence)

    def _add_chunk(self, sequence: Sequence, plan: StepPlan, budget: int) -> int:
        """Schedules as much of a prefill as the budget allows; returns the number of tokens."""
        num_tokens = min(sequence.num_uncomputed, budget)
        is_last = num_tokens == sequence.num_uncomputed
        if not is_last:
            # Chunks that end with a page leave no page half published to those who wait for it.
            excess = (sequence.num_computed + num_tokens) % self._page_size
            num_tokens -= excess if excess < num_tokens else 0
        plan.chunks.append(
            RowWork(sequence=sequence, start=sequence.num_computed, num_tokens=num_tokens, samples=is_last)
        )
        return num_tokens

    def _grow_decodes(self, plan: StepPlan) -> None:
        """Gives a page to each decode whose next token begins one."""
        if not self._decoding:
            return
        positions = self.table.position[self._current_decode_rows()]
        due = np.flatnonzero(positions % self._page_size == 0).tolist()
        for sequence in [self._decoding[index] for index in due]:
            has_page = len(sequence.pages) * self._page_size > sequence.num_computed
            if not has_page and sequence.status is SequenceStatus.DECODING:
                self._grow(sequence, plan)

    def _grow(self, sequence: Sequence, plan: StepPlan) -> None:
        if len(sequence.pages) == self.table.max_pages:
            self._fail(sequence, plan, f"the sequence reached the maximum of {self.limits.max_context} tokens")
            return
        while (pages := self._take_pages(1)) is None:
            if self.num_running == 1:
                self._fail(sequence, plan, self._too_small(len(sequence.pages) + 1))
                return
            victim = max(self._prefilling + self._decoding, key=_rank)
            self._retract(victim, plan)
            if victim is sequence:
                return
        assert sequence.row is not None
        self.table.page_table[sequence.row, len(sequence.pages)] = pages[0]
        sequence.pages += pages

    def _take_pages(self, num_pages: int) -> list[int] | None:
        missing = num_pages - self._pool.num_free
        if missing > 0:
            self._tree.evict(missing)
        return self._pool.allocate(num_pages) if self._pool.can_allocate(num_pages) else None

    def _publish(self, sequence: Sequence, *, with_tail: bool = False) -> None:
        """Moves the newly computed full pages (and the partly filled one) of a sequence into the tree.

        The first page that the tree already has ends this: taking the lock down to the twin would pin pages that this
        sequence does not use. What follows stays private until the end.
        """
        first = sequence.num_published
        num_full = sequence.num_computed // self._page_size
        end = sequence.num_computed if with_tail else num_full * self._page_size
        start = first * self._page_size
        if sequence.is_diverted or end <= start:
            return
        assert sequence.node is not None
        key = sequence.packed(start, end)
        if num_full > first and self._tree.contains_page(sequence.node, key[: self._page_size * TOKEN_BYTES]):
            sequence.is_diverted = True
            return
        extension = self._tree.extend(sequence.node, key, sequence.pages[first : -(-end // self._page_size)])
        sequence.node = extension.node
        sequence.num_published = num_full

    # Admission.

    def _enqueue(self, sequences: Iterable[Sequence]) -> None:
        for sequence in sequences:
            sequence.status = SequenceStatus.WAITING
            insort(self._waiting, sequence, key=_rank)
            self._may_admit = True

    def _admit_waiting(self, plan: StepPlan, budget: int) -> None:
        """Starts waiting sequences in order until rows, pages or budget end."""
        if not self._may_admit and self.num_running:
            return
        while self._waiting and budget > 0 and self.table.can_allocate():
            sequence = self._waiting[0]
            if sequence.key is None:
                sequence.key = sequence.packed(0, len(sequence.tokens))
            if not self._has_valid_length(sequence, plan):
                continue
            match = self._tree.match(sequence.namespace, sequence.key, len(sequence.tokens) - 1)
            if self._park(sequence, match):
                continue
            if not self._admit(sequence, match, plan):
                # Tried again when something was released or published, not at each step.
                self._may_admit = False
                break
            del self._waiting[0]
            if sequence.status is SequenceStatus.DECODING:
                budget -= 1
            else:
                budget -= self._add_chunk(sequence, plan, budget)
        for node in self._tail_holds:
            self._tree.unlock(node)
        self._tail_holds.clear()

    def _has_valid_length(self, sequence: Sequence, plan: StepPlan) -> bool:
        num_tokens = len(sequence.tokens)
        num_pages = -(-num_tokens // self._page_size)
        if num_tokens > self.limits.max_context:
            reason = f"{num_tokens} tokens exceed the maximum context of {self.limits.max_context} tokens"
        elif num_pages > self._pool.num_pages:
            reason = self._too_small(num_pages)
        else:
            return True
        self._fail(sequence, plan, reason)
        return False

    def _park(self, sequence: Sequence, match: Match) -> bool:
        """Lets the first waiting sequence wait for a prefix in progress, if its next page is being computed."""
        start = len(match.pages) * self._page_size
        next_page = sequence.packed(start, start + self._page_size)
        computing = self._prefixes.find(match.page_hash, next_page)
        if computing is None:
            return False
        del self._waiting[0]
        sequence.status = SequenceStatus.PARKED
        self._prefixes.park(sequence, computing)
        return True

    def _admit(self, sequence: Sequence, match: Match, plan: StepPlan) -> bool:
        """Gives a row, the cached pages and all further pages of its tokens to a sequence, if there are enough."""
        num_tokens = len(sequence.tokens)
        remaining = max(sequence.params.max_tokens - sequence.num_generated, 0)
        headroom = min(-(-remaining // self._page_size), self.limits.headroom_pages)
        reserve = self._headroom_pages + headroom if self.num_running else 0
        num_missing = -(-num_tokens // self._page_size) - len(match.pages)
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
        pages = self._take_pages(num_missing)
        assert pages is not None
        if tail is not None:
            # Held until all of this step's pages are taken: a copy must not read what another one overwrites.
            self._tail_holds.append(tail.node)
            plan.copies.append(PageCopy(tail.page, pages[0]))
        sequence.node = node
        sequence.num_published = len(match.pages)
        sequence.num_computed = len(match.pages) * self._page_size + (tail.num_tokens if tail is not None else 0)
        sequence.pages = match.pages + pages
        sequence.row = self.table.allocate(sequence.pages)
        sequence.headroom_pages = headroom
        self._headroom_pages += headroom
        if not sequence.was_admitted:
            sequence.was_admitted = True
            sequence.num_cached_tokens = sequence.num_computed
        self._start(sequence, match.page_hash)
        return True

    def _start(self, sequence: Sequence, page_hash: bytes) -> None:
        if sequence.num_uncomputed == 1:
            self._start_decoding(sequence)
            return
        sequence.status = SequenceStatus.PREFILLING
        insort(self._prefilling, sequence, key=_rank)
        self._prefixes.register(sequence, page_hash)

    @property
    def _num_available(self) -> int:
        return self._pool.num_free + self._tree.num_evictable_pages

    # Giving way, failing, ending.

    def _retract(self, sequence: Sequence, plan: StepPlan) -> None:
        """Takes row and pages from a running sequence; it keeps its tokens and waits to resume."""
        self._release(sequence)
        plan.retracted.append(sequence)
        self._enqueue([sequence])

    def _fail(self, sequence: Sequence, plan: StepPlan, reason: str) -> None:
        plan.failed.append(FailedSequence(sequence=sequence, reason=reason))
        self._end(sequence)

    def _too_small(self, num_pages: int) -> str:
        num_tokens = self._pool.num_pages * self._page_size
        return f"{num_pages} KV pages are needed, the whole pool has {self._pool.num_pages} ({num_tokens} tokens)"

    def _end(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.WAITING:
            self._waiting.remove(sequence)
            self._may_admit = True
        elif sequence.status is SequenceStatus.PARKED:
            self._prefixes.unpark(sequence)
        else:
            self._release(sequence)
        sequence.key = None
        sequence.status = SequenceStatus.ENDED
        del self._sequences[sequence.request_id]

    def _release(self, sequence: Sequence) -> None:
        """Publishes what a running sequence computed and gives back its row, locks and pages."""
        if sequence.status is SequenceStatus.PREFILLING:
            self._prefilling.remove(sequence)
            self._prefixes.unregister(sequence)
        else:
            self._decoding.remove(sequence)
            self._decode_rows = None
        assert sequence.node is not None and sequence.row is not None
        first = sequence.num_published
        num_used = -(-sequence.num_computed // self._page_size)
        key = sequence.packed(first * self._page_size, sequence.num_computed)
        extension = self._tree.extend(sequence.node, key, sequence.pages[first:num_used])
        self._tree.unlock(extension.node)
        self._pool.free(extension.unused + sequence.pages[num_used:])
        self.table.free(sequence.row, len(sequence.pages))
        self._headroom_pages -= sequence.headroom_pages
        sequence.node = sequence.row = None
        sequence.pages = []
        sequence.num_computed = sequence.num_published = 0
        sequence.is_diverted = False
        sequence.key = None
        self._enqueue(self._prefixes.woken(sequence))
        self._may_admit = True


def _sequences_of(plan: StepPlan) -> list[Sequence]:
    return plan.decodes + [work.sequence for work in plan.chunks]
