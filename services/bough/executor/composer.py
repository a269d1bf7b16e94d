"""The step composer: which running rows compute how many tokens in the next step, and who may start or must give way.

All decodes first, one token each; then prefill chunks in the scheduler's order under the chunk budget, those already
started before new ones. Pages of a whole prompt are taken at admission, so only decodes ever run short; then the
sequence that comes last in the order gives way. Nothing here knows what a token or a page means to the model.

Steps may be composed before the tokens of earlier ones are known: what a step computes depends on how many tokens there
are, not on which. So a plan is advanced when it is launched (counters, pages) and recorded when its tokens are there.
Whatever is released meanwhile may be handed out at once, since launched steps run in order.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np

from bough.executor.bases import Base
from bough.executor.cache import PagePool, RadixTree
from bough.executor.chunk_budget import ChunkBudget
from bough.executor.draft_rows import DraftRows
from bough.executor.prefixes import PrefixesInProgress
from bough.executor.publisher import Publisher
from bough.executor.row_table import RowTable
from bough.executor.running_set import RunningSet
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.starter import Starter
from bough.executor.step import ComposerLimits, FailedSequence, StepPlan


class StepComposer:
    """Owns the sequences of an executor; `compose` and `advance` alternate, other calls may come at any time."""

    def __init__(self, *, pool: PagePool, tree: RadixTree, limits: ComposerLimits) -> None:
        self.limits = limits
        self._pool = pool
        self._tree = tree
        self._page_size = pool.page_size
        max_pages = -(-limits.max_context // pool.page_size)
        self.table = RowTable(max_rows=limits.max_rows, max_pages=max_pages, page_size=pool.page_size)
        self._publisher = Publisher(tree=tree)
        self._prefixes = PrefixesInProgress(page_size=pool.page_size)
        self._sequences: dict[int, Sequence] = {}
        self._running = RunningSet()
        self._starter = Starter(
            pool=pool,
            tree=tree,
            table=self.table,
            running=self._running,
            prefixes=self._prefixes,
            fail=self._fail,
        )
        self.drafts = DraftRows(table=self.table, running=self._running, take_pages=self._starter.take_pages)
        self._plan: StepPlan | None = None
        self._ending: list[Sequence] = []
        self.num_queued = 0  # sequences that wait elsewhere for a place here

    @property
    def num_running(self) -> int:
        """Sequences that have a row."""
        return len(self._running)

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
        self._starter.enqueue([sequence])

    def reorder(self, request_id: int, order: int) -> None:
        """Gives a sequence another rank; unknown requests are ignored."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            return
        sequence.order = order
        self._starter.sort()
        self._running.sort()

    def cancel(self, request_id: int) -> Sequence | None:
        """Ends a request: at once, or at `advance` if it is part of the composed step. None if unknown."""
        sequence = self._sequences.get(request_id)
        if sequence is not None:
            self.finish(sequence)
        return sequence

    def finish(self, sequence: Sequence) -> None:
        """Ends a sequence: what it computed goes to the cache, its row and pages are given back. As `cancel`."""
        if sequence.status is SequenceStatus.ENDED:
            return
        plan = self._plan
        if plan is not None and sequence.row is not None and any(row is sequence for row in _sequences_of(plan)):
            if sequence not in self._ending:
                self._ending.append(sequence)
            return
        self._end(sequence)

    def release_base(self, base: Base) -> None:
        """Nothing new will go on from a base."""
        base.is_released = True
        if base.pin is not None:
            self._tree.unpin(base.pin)
            base.pin = None

    def compose(self) -> StepPlan | None:
        """Decides the next step; None if there is nothing to do or to report.

        Raises:
            RuntimeError: the last plan is not advanced.
        """
        if self._plan is not None:
            raise RuntimeError("compose before the last plan was advanced")
        plan = StepPlan(assemble=self.table.assemble)
        self._grow_decodes(plan)
        num_decodes = len(self._running.decoding)
        num_drafts = self.drafts.add(plan, self.limits, len(self._starter))
        if self._running.prefilling or len(self._starter):
            self._add_chunks(plan, num_drafts + num_decodes - len(self._running.decoding))
        if self._running.decoding:
            plan.decodes = self._running.decoding.copy()
            plan.decode_rows = self._running.decode_rows
        if plan.num_rows:
            self._plan = plan
        elif not plan.retracted and not plan.failed:
            return None
        return plan

    def advance(self, plan: StepPlan) -> None:
        """Notes that a step is launched: the K/V of its rows counts as computed, those that sample have one token more.

        Args:
            plan: the last one of `compose` that had rows.

        Raises:
            RuntimeError: the plan is not the composed one.
        """
        if plan is not self._plan:
            raise RuntimeError("this plan is not under way")
        self._plan = None
        if plan.decodes:
            self._advance_decodes(plan)
        self._advance_chunks(plan)
        ending, self._ending = self._ending, []
        for sequence in ending:
            self._end(sequence)

    def record(self, sampling: Items[Sequence], tokens: Items[int]) -> set[int]:
        """Notes the tokens of an advanced step; those of sequences that have ended since are dropped.

        Args:
            sampling: the plan's `sampling`.
            tokens: one for each of them.

        Returns:
            Indices of tokens that count for nothing, as an earlier one of their sequence is not its draft.

        Raises:
            ValueError: the number of tokens is wrong.
        """
        if len(tokens) != len(sampling):
            raise ValueError(f"{len(sampling)} rows sample in this step, got {len(tokens)} tokens")
        last_token, page_size = self.table.last_token, self._page_size
        void: set[int] = set()
        end_of_drafts = 0
        for index, (sequence, token) in enumerate(zip(sampling, tokens, strict=True)):
            if sequence.status is SequenceStatus.ENDED or index < end_of_drafts:
                continue
            if sequence.drafts:
                end_of_drafts = index + 1 + len(sequence.drafts)
                accepted = self.drafts.record(sequence, tokens[index:end_of_drafts])
                void.update(range(index + accepted, end_of_drafts))
                self._publisher.publish(sequence)
                continue
            known = sequence.tokens
            sequence.num_pending -= 1
            if sequence.row is None:
                known.append(token)
                if not sequence.num_pending:  # it gave way while its last tokens were under way
                    self._starter.enqueue([sequence])
                continue
            num_known = sequence.num_base + len(known)
            if num_known % page_size == 0 and num_known > sequence.num_published * page_size:
                self._publisher.publish(sequence)
            known.append(token)
            last_token[sequence.row] = token
        return void

    def abandon(self, plan: StepPlan) -> list[Sequence]:
        """Gives up a step that could not be launched: nothing of it goes to the cache.

        Its prefills end, and the rows whose page copies it should have made; decodes stay and are composed again. A
        step of decodes alone ends them all.

        Returns:
            The ended sequences, which the caller must report.

        Raises:
            RuntimeError: the plan is not the composed one.
        """
        if plan is not self._plan:
            raise RuntimeError("this plan is not under way")
        self._plan = None
        unsure = {copy.dst for copy in plan.copies}
        has_prefills = any(work.sequence.status is SequenceStatus.PREFILLING for work in plan.chunks)
        ended = []
        for sequence in _sequences_of(plan):
            if is_unsure := not unsure.isdisjoint(sequence.pages):
                sequence.num_computed = sequence.num_published * self._page_size
            if sequence.status is SequenceStatus.DRAFTING:
                self.drafts.give_up(sequence)
            is_offender = not has_prefills or sequence.status is SequenceStatus.PREFILLING
            if is_unsure or is_offender or sequence in self._ending:
                self._end(sequence)
                ended.append(sequence)
        self._ending.clear()
        return ended

    def _advance_decodes(self, plan: StepPlan) -> None:
        self.table.position[plan.decode_rows] += 1
        at_end = []
        for sequence in plan.decodes:
            sequence.num_computed += 1
            sequence.num_pending += 1
            if sequence.num_computed + 1 >= sequence.max_length:
                at_end.append(sequence)
        self._running.finish_decoding(at_end)

    def _advance_chunks(self, plan: StepPlan) -> None:
        for work in plan.chunks:
            sequence = work.sequence
            if work.drafts:
                sequence.num_computed += 1
                sequence.num_pending += 1
                continue
            sequence.num_computed += work.num_tokens
            self._publisher.publish(sequence, with_tail=work.samples)
            if work.samples:
                self._prefixes.unregister(sequence)
                self._running.remove(sequence)
                self._starter.pin_base(sequence)
                self._starter.start_decoding(sequence, num_pending=1)
            else:
                assert sequence.node is not None
                self._prefixes.register(sequence, self._tree.end_hash(sequence.node))
            self._starter.enqueue(self._prefixes.woken(sequence))
            self._starter.may_start = True

    # Rows that run.

    def _add_chunks(self, plan: StepPlan, num_reserved: int) -> None:
        """Prefills under way, then new ones; beside decodes the first of all last, with what the others leave."""
        budget = self._chunk_budget()
        budget.reserve(num_reserved)
        prefilling = self._running.prefilling.copy()
        first = prefilling[:1] if budget.is_shared else []
        budget.hold_back(bool(first))
        for sequence in prefilling[len(first) :]:
            budget.add(plan, sequence, self._page_size)
        # A step that took pages away starts nobody: the freed pages are for those who still run.
        if not plan.retracted or not self.num_running:
            self._starter.start(plan, budget, self.limits)
        budget.give_back()
        for sequence in first:
            budget.add(plan, sequence, self._page_size)

    def _chunk_budget(self) -> ChunkBudget:
        startable = (
            0 if self._starter.is_short_of_pages else min(len(self._starter) + self.num_queued, self.table.num_free)
        )
        contexts = self.table.position[self._running.decode_rows]
        return ChunkBudget.of_step(self.limits, contexts, len(self._running.prefilling) + startable)

    def _grow_decodes(self, plan: StepPlan) -> None:
        """Gives a page to each decode whose next token begins one."""
        decoding = self._running.decoding
        if not decoding:
            return
        positions = self.table.position[self._running.decode_rows]
        due = np.flatnonzero(positions % self._page_size == 0).tolist()
        for sequence in [decoding[index] for index in due]:
            has_page = sequence.num_pages * self._page_size > sequence.num_computed
            if not has_page and sequence.status is SequenceStatus.DECODING:
                self._grow(sequence, plan)

    def _grow(self, sequence: Sequence, plan: StepPlan) -> None:
        is_full = sequence.num_pages == self.table.max_pages
        while is_full or (pages := self._starter.take_pages(1)) is None:
            if is_full or self.num_running == 1:
                self._give_up(sequence, plan)
                return
            victim = self._running.last_to_give_way()
            self._retract(victim, plan)
            if victim is sequence:
                return
        assert sequence.row is not None
        self.table.grow(sequence.row, sequence.num_pages, pages[0])
        sequence.pages += pages

    def _give_up(self, sequence: Sequence, plan: StepPlan) -> None:
        """Ends a sequence that can never have the page it needs, unless a token under way may be its last one."""
        if sequence.num_pending:
            self._retract(sequence, plan)
        elif sequence.num_pages == self.table.max_pages:
            self._fail(sequence, plan, f"the sequence reached the maximum of {self.limits.max_context} tokens")
        else:
            self._fail(sequence, plan, self._starter.too_small(sequence.num_pages + 1))

    # Giving way, failing, ending.

    def _retract(self, sequence: Sequence, plan: StepPlan) -> None:
        """Takes row and pages from a running sequence; it keeps its tokens and waits to resume."""
        self._release(sequence)
        plan.retracted.append(sequence)
        sequence.was_retracted = True
        sequence.status = SequenceStatus.WAITING
        if not sequence.num_pending:  # else it cannot be computed again before its tokens are known
            self._starter.enqueue([sequence])

    def _fail(self, sequence: Sequence, plan: StepPlan, reason: str) -> None:
        plan.failed.append(FailedSequence(sequence=sequence, reason=reason))
        self._end(sequence)

    def _end(self, sequence: Sequence) -> None:
        if sequence.status is SequenceStatus.WAITING:
            if not sequence.num_pending:
                self._starter.remove(sequence)
            self._starter.may_start = True
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
            self._prefixes.unregister(sequence)
        self._running.remove(sequence)
        assert sequence.row is not None
        self._pool.free(self._publisher.release(sequence))
        self.table.free(sequence.row, sequence.num_pages)
        self._starter.note_release(sequence)
        sequence.node = sequence.row = None
        sequence.head, sequence.pages = [], []
        sequence.num_computed = sequence.num_published = 0
        sequence.is_diverted = False
        sequence.key = None
        self._starter.enqueue(self._prefixes.woken(sequence))


def _sequences_of(plan: StepPlan) -> list[Sequence]:
    return plan.decodes + [work.sequence for work in plan.chunks]
