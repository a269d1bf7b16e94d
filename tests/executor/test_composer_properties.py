"""Sequences under random arrivals, cancels, steps and small pools get the tokens they would get alone."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bough.common.sampling import SamplingParams
from bough.executor.sequence import Sequence, SequenceStatus
from tests.executor.cache.fake_model import FakeEngine, generate_alone
from tests.executor.cache.profiles import property_settings

prompts = st.lists(st.integers(0, 1), min_size=1, max_size=24)


class ComposerMachine(RuleBasedStateMachine):
    """An engine on the fake model, and what was asked of it."""

    engine: FakeEngine

    @initialize(
        num_pages=st.sampled_from([4, 8, 12, 24]),
        page_size=st.sampled_from([2, 3, 4]),
        max_rows=st.sampled_from([1, 2, 4, 8]),
        budgets=st.tuples(st.sampled_from([1, 3, 8, 30]), st.sampled_from([None, 2, 5])),
        headroom_pages=st.sampled_from([0, 1, 3]),
        run_ahead=st.sampled_from([0, 0, 1, 2, 3]),
        knows_length=st.booleans(),
    )
    def begin(
        self,
        num_pages: int,
        page_size: int,
        max_rows: int,
        budgets: tuple[int, int | None],
        headroom_pages: int,
        run_ahead: int,
        knows_length: bool,
    ) -> None:
        self.engine = FakeEngine(
            num_pages=num_pages,
            page_size=page_size,
            max_rows=max_rows,
            token_budget=max_rows + budgets[0],
            headroom_pages=headroom_pages,
            mixed_token_budget=budgets[1],
            run_ahead=run_ahead,
        )
        self.knows_length = knows_length
        self.sequences: list[Sequence] = []
        self.cancelled: set[int] = set()

    @rule(
        prompt=prompts,
        num_siblings=st.sampled_from([1, 1, 1, 3]),
        max_tokens=st.integers(1, 18),
        order=st.integers(0, 4),
        namespace=st.sampled_from([b"", b"", b"tenant"]),
    )
    def add(self, prompt: list[int], num_siblings: int, max_tokens: int, order: int, namespace: bytes) -> None:
        for _ in range(num_siblings):
            sequence = Sequence(
                request_id=len(self.sequences),
                tokens=list(prompt),
                num_prompt=len(prompt),
                params=SamplingParams(max_tokens=max_tokens),
                max_length=len(prompt) + max_tokens if self.knows_length else 1 << 62,
                order=order,
                namespace=namespace,
            )
            self.sequences.append(sequence)
            self.engine.composer.add(sequence)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), cut=st.integers(1, 30), tokens=prompts, max_tokens=st.integers(1, 18))
    def add_next_turn(self, data: st.DataObject, cut: int, tokens: list[int], max_tokens: int) -> None:
        earlier = data.draw(st.sampled_from(self.sequences))
        self.add((earlier.tokens[:cut] + tokens)[:40], 1, max_tokens, 2, earlier.namespace)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sequence = data.draw(st.sampled_from(self.sequences))
        if self.engine.composer.cancel(sequence.request_id) is not None:
            assert sequence.status is SequenceStatus.ENDED
            self.cancelled.add(sequence.request_id)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), order=st.integers(0, 4))
    def reorder(self, data: st.DataObject, order: int) -> None:
        self.engine.composer.reorder(data.draw(st.sampled_from(self.sequences)).request_id, order)

    @rule(count=st.integers(1, 6))
    def step(self, count: int) -> None:
        for _ in range(count):
            self.engine.step()
            self.engine.check()

    @precondition(lambda self: self.sequences)
    @rule(data=st.data())
    def cancel_within_a_step(self, data: st.DataObject) -> None:
        plan = self.engine.compose()
        sequence = data.draw(st.sampled_from(self.sequences))
        if self.engine.composer.cancel(sequence.request_id) is not None:
            self.cancelled.add(sequence.request_id)
            is_in_plan = plan is not None and any(work.sequence is sequence for work in plan.rows)
            assert (sequence.status is SequenceStatus.ENDED) != is_in_plan
        if plan is not None:
            self.engine.complete(plan)
        assert self.engine.composer.get(sequence.request_id) is None or sequence.request_id not in self.cancelled

    @invariant()
    def pages_have_one_owner(self) -> None:
        if hasattr(self, "engine"):
            self.engine.check()

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        engine = self.engine
        engine.run()
        engine.check()
        assert engine.tree.num_locked_pages == 0
        assert engine.pool.num_used == engine.tree.num_pages
        capacity = engine.pool.num_pages * engine.pool.page_size
        for sequence in self.sequences:
            num_new = min(sequence.num_generated, sequence.params.max_tokens)
            assert sequence.tokens == generate_alone(sequence.tokens[: sequence.num_prompt], num_new)
            if sequence in engine.failed:
                assert len(sequence.tokens) > capacity, "it fitted into the pool alone"
            elif sequence.request_id not in self.cancelled:
                assert sequence in engine.finished and num_new == sequence.params.max_tokens
        engine.tree.evict(engine.pool.num_pages)
        assert engine.pool.num_free == engine.pool.num_pages


TestComposer = ComposerMachine.TestCase
TestComposer.settings = property_settings(max_examples=400, steps=40)
