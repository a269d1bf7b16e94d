"""A model whose next token is a hash of the whole prefix that it reads from its pages.

A wrong page, a missing copy, a page reused too early or a wrong position changes the prefix it reads, and with it
every token that follows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Items
from hashlib import blake2b

import numpy as np

from bough.executor.cache import PagePool, RadixTree
from bough.executor.composer import StepComposer
from bough.executor.mixed_budget import FixedBudget
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.step import ComposerLimits, StepPlan
from tests.executor.cache.tree_check import check_tree, tree_pages

VOCABULARY = 5
EMPTY = -1


def next_token(prefix: Items[int]) -> int:
    """What the model says after a prefix."""
    return blake2b(np.array(prefix, np.int64).tobytes(), digest_size=4).digest()[0] % VOCABULARY


def generate_alone(prompt: Items[int], num_tokens: int) -> list[int]:
    """Prompt and what an undisturbed run adds to it."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(next_token(tokens))
    return tokens


class FakeEngine:
    """Pool, tree and composer driven by the fake model; finishes sequences at their `max_tokens`.

    As on a GPU, a step's tokens stay on the device, where the next step finds them by row, and are recorded `run_ahead`
    steps later.
    """

    def __init__(
        self,
        *,
        num_pages: int,
        page_size: int,
        max_rows: int,
        token_budget: int,
        headroom_pages: int = 1,
        mixed_token_budget: int | None = None,
        run_ahead: int = 0,
    ) -> None:
        self.pool = PagePool(num_pages=num_pages, page_size=page_size)
        self.tree = RadixTree(page_size=page_size, release=self.pool.free)
        limits = ComposerLimits(
            max_rows=max_rows,
            token_budget=token_budget,
            max_context=num_pages * page_size * 2,
            headroom_pages=headroom_pages,
            mixed_budget=None if mixed_token_budget is None else FixedBudget(mixed_token_budget),
        )
        self.composer = StepComposer(pool=self.pool, tree=self.tree, limits=limits)
        self.memory = np.full((num_pages, page_size), EMPTY, np.int64)
        self.row_tokens = np.full(max_rows, EMPTY, np.int64)
        self.run_ahead = run_ahead
        self.under_way: deque[tuple[list[Sequence], list[int]]] = deque()
        self.finished: list[Sequence] = []
        self.failed: list[Sequence] = []
        self.num_copied = 0
        self.num_computed = 0
        self.num_retracted = 0

    def forward(self, plan: StepPlan) -> list[int]:
        """Copies pages, stores the step's tokens, and reads each row's prefix back through its page table."""
        arrays = plan.arrays
        num_decodes = arrays.num_decode_rows
        for index, sequence in enumerate(plan.decodes):
            if sequence.num_pending:
                arrays.tokens[index] = self.row_tokens[arrays.rows[index]]
        for src, dst in reversed(plan.copies):  # any order of the copies must do
            self.memory[dst] = self.memory[src]
        self.num_copied += len(plan.copies)
        self.num_computed += len(arrays.tokens)
        slots = self.memory.reshape(-1)
        assert len(np.unique(arrays.slots)) == len(arrays.slots), "two tokens in one slot"
        slots[arrays.slots] = arrays.tokens
        prefixes: dict[int, list[int]] = {}
        for index, work in enumerate(plan.rows):
            begin, end = arrays.query_start[index : index + 2].tolist()
            length = int(arrays.context_lens[index])
            prefix = self.memory[arrays.page_table[index]].reshape(-1)[:length].tolist()
            assert end - begin == work.num_tokens
            assert arrays.rows[index] == work.sequence.row
            assert arrays.positions[begin:end].tolist() == list(range(length - work.num_tokens, length))
            known = work.sequence.since(0)[:length]
            assert prefix[: len(known)] == known
            assert (work.num_tokens == 1 and work.samples) or index >= num_decodes
            assert work.samples == (length == work.sequence.length)
            assert length <= work.sequence.max_length
            if work.samples:
                prefixes[end - 1] = prefix
                self.row_tokens[arrays.rows[index]] = next_token(prefix)
        assert list(prefixes) == arrays.logit_rows.tolist()
        return [next_token(prefix) for prefix in prefixes.values()]

    def compose(self) -> StepPlan | None:
        """The composer's next plan; counts what it reports and checks its limits."""
        plan = self.composer.compose()
        if plan is not None:
            self.failed += [failure.sequence for failure in plan.failed]
            self.num_retracted += len(plan.retracted)
            limits = self.composer.limits
            assert plan.num_rows <= limits.max_rows
            assert sum(work.num_tokens for work in plan.rows) <= limits.token_budget
        return plan

    def complete(self, plan: StepPlan) -> None:
        """Runs the model, and records the steps that are more than `run_ahead` back."""
        if plan.num_rows:
            tokens = self.forward(plan)
            self.composer.advance(plan)
            self.under_way.append((plan.sampling, tokens))
        while len(self.under_way) > self.run_ahead:
            self.record()

    def record(self) -> None:
        """Records the oldest step under way and finishes the sequences that have all their tokens."""
        sampling, tokens = self.under_way.popleft()
        self.composer.record(sampling, tokens)
        for sequence in sampling:
            is_done = sequence.num_generated >= sequence.params.max_tokens
            if is_done and sequence.status is not SequenceStatus.ENDED:
                self.composer.finish(sequence)
                self.finished.append(sequence)

    def step(self) -> StepPlan | None:
        """One compose, forward, complete; None if nothing is left to compute or to record."""
        plan = self.compose()
        if plan is not None:
            self.complete(plan)
        elif self.under_way:
            self.record()
            return StepPlan(assemble=self.composer.table.assemble)
        return plan

    def run(self, max_steps: int = 2_000) -> int:
        """Steps until nothing is left; returns the number of steps."""
        for count in range(max_steps):
            if self.step() is None:
                assert self.composer.num_running == self.composer.num_waiting == 0, "work is left, nothing is done"
                return count
        raise AssertionError(f"not done after {max_steps} steps")

    def check(self) -> None:
        """Asserts that each page has one owner; forgets what free pages held, so that using one is seen."""
        running = [sequence for sequence in self.composer.sequences if sequence.row is not None]
        check_tree(self.tree, [sequence.node for sequence in running if sequence.node is not None])
        owned = tree_pages(self.tree)
        for sequence in running:
            assert sequence.node is not None
            owned += sequence.pages[sequence.num_published + sequence.node.is_tail - len(sequence.head) :]
        free = self.pool._free
        assert sorted(owned + free) == list(range(self.pool.num_pages))
        self.memory[free] = EMPTY
        composer = self.composer
        total = composer.num_pages_free + composer.num_pages_cached + composer.num_pages_used
        assert total == self.pool.num_pages
