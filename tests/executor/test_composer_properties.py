"""Sequences under random arrivals, cancels, steps and small pools get the tokens they would get alone."""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bough.common.prefix_hash import token_bytes
from bough.common.sampling import SamplingParams
from bough.executor.bases import Base
from bough.executor.sequence import Sequence, SequenceStatus
from tests.executor.cache.fake_model import FakeEngine, generate_alone
from tests.executor.cache.profiles import property_settings
from tests.executor.cache.tree_check import nodes_of, path

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
        self.bases: list[Base] = []
        """Those that are not released."""

    def add_sequence(self, prompt: list[int], base: Base | None, namespace: bytes, max_tokens: int, order: int) -> None:
        num_prompt = len(prompt) + (0 if base is None else base.num_tokens)
        sequence = Sequence(
            request_id=len(self.sequences),
            tokens=list(prompt),
            num_prompt=num_prompt,
            params=SamplingParams(max_tokens=max_tokens),
            max_length=num_prompt + max_tokens if self.knows_length else 1 << 62,
            base=base,
            order=order,
            namespace=namespace,
        )
        self.sequences.append(sequence)
        self.engine.composer.add(sequence)

    @rule(
        prompt=prompts,
        num_siblings=st.sampled_from([1, 1, 1, 3]),
        max_tokens=st.integers(1, 18),
        order=st.integers(0, 4),
        namespace=st.sampled_from([b"", b"", b"tenant"]),
    )
    def add(self, prompt: list[int], num_siblings: int, max_tokens: int, order: int, namespace: bytes) -> None:
        for _ in range(num_siblings):
            self.add_sequence(prompt, None, namespace, max_tokens, order)

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), cut=st.integers(1, 30), tokens=prompts, max_tokens=st.integers(1, 18))
    def add_next_turn(self, data: st.DataObject, cut: int, tokens: list[int], max_tokens: int) -> None:
        earlier = data.draw(st.sampled_from(self.sequences))
        self.add((earlier.since(0)[:cut] + tokens)[:40], 1, max_tokens, 2, earlier.namespace)

    @rule(tokens=prompts, namespace=st.sampled_from([b"", b"", b"tenant"]))
    def learn_a_base(self, tokens: list[int], namespace: bytes) -> None:
        self.bases.append(Base(token_bytes(tokens), namespace))

    @precondition(lambda self: self.sequences)
    @rule(data=st.data(), cut=st.integers(1, 30))
    def learn_the_base_of_a_request(self, data: st.DataObject, cut: int) -> None:
        earlier = data.draw(st.sampled_from(self.sequences))
        self.learn_a_base(earlier.since(0)[:cut], earlier.namespace)

    @precondition(lambda self: self.bases)
    @rule(
        data=st.data(),
        endings=st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=5), min_size=1, max_size=4),
        max_tokens=st.integers(1, 18),
        order=st.integers(0, 4),
    )
    def branch(self, data: st.DataObject, endings: list[list[int]], max_tokens: int, order: int) -> None:
        base = data.draw(st.sampled_from(self.bases))
        for ending in endings:
            self.add_sequence(ending, base, base.namespace, max_tokens, order)

    @precondition(lambda self: self.bases)
    @rule(data=st.data())
    def release_a_base(self, data: st.DataObject) -> None:
        base = self.bases.pop(data.draw(st.integers(0, len(self.bases) - 1)))
        self.engine.composer.release_base(base)

    @rule(num_pages=st.integers(1, 12))
    def evict(self, num_pages: int) -> None:
        self.engine.tree.evict(num_pages)

    @precondition(lambda self: self.bases)
    @rule(data=st.data())
    def condemn(self, data: st.DataObject) -> None:
        base = data.draw(st.sampled_from(self.bases))
        self.engine.tree.condemn(base.namespace, base.packed, data.draw(st.integers(0, 3)))

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

    @invariant()
    def pins_are_where_their_bases_tokens_are(self) -> None:
        if not hasattr(self, "engine"):
            return
        pins = [pin for node in nodes_of(self.engine.tree) for pin in node.pins]
        found = {id(base.found): base for base in self.bases if base.found is not None}
        assert found.keys() == {id(pin) for pin in pins}
        for pin in pins:
            assert pin.node is not None
            key = b"".join(bytes(step.key) for step in path(pin.node))
            base = found[id(pin)]
            assert base.packed.startswith(key) and base.namespace == pin.node.namespace
            assert len(pin.pages) == base.num_tokens // self.engine.pool.page_size

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
            tokens = sequence.since(0)
            assert tokens == generate_alone(tokens[: sequence.num_prompt], num_new)
            if sequence in engine.failed:
                assert len(tokens) > capacity, "it fitted into the pool alone"
            elif sequence.request_id not in self.cancelled:
                assert sequence in engine.finished and num_new == sequence.params.max_tokens
        engine.tree.evict(engine.pool.num_pages)
        assert engine.pool.num_free == engine.pool.num_pages


TestComposer = ComposerMachine.TestCase
TestComposer.settings = property_settings(max_examples=400, steps=40)
