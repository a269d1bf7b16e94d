from __future__ import annotations

import pytest

from bough.common.prefix_hash import token_bytes
from bough.common.sampling import SamplingParams
from bough.executor.bases import Base
from bough.executor.sequence import Sequence, SequenceStatus
from bough.executor.step import ComposerLimits
from tests.executor.cache.fake_model import FakeEngine, generate_alone
from tests.executor.cache.tree_check import nodes_of


def make(request_id: int, prompt: list[int], max_tokens: int = 4, order: int | None = None) -> Sequence:
    return Sequence(
        request_id=request_id,
        tokens=list(prompt),
        num_prompt=len(prompt),
        params=SamplingParams(max_tokens=max_tokens),
        order=request_id if order is None else order,
    )


def branch(request_id: int, base: Base, own: list[int], max_tokens: int = 4) -> Sequence:
    return Sequence(
        request_id=request_id,
        base=base,
        tokens=list(own),
        num_prompt=base.num_tokens + len(own),
        params=SamplingParams(max_tokens=max_tokens),
        order=request_id,
    )


def expected(sequence: Sequence) -> list[int]:
    return generate_alone(sequence.since(0)[: sequence.num_prompt], sequence.params.max_tokens)


def run_checked(engine: FakeEngine, sequences: list[Sequence]) -> None:
    for sequence in sequences:
        engine.composer.add(sequence)
    engine.run()
    engine.check()
    assert [sequence.since(0) for sequence in sequences] == [expected(sequence) for sequence in sequences]
    assert engine.tree.num_locked_pages == 0
    assert engine.pool.num_used == engine.tree.num_pages


def test_one_prompt_is_computed_in_chunks_of_the_budget_and_then_decoded() -> None:
    engine = FakeEngine(num_pages=16, page_size=4, max_rows=4, token_budget=10)
    sequence = make(1, [n % 5 for n in range(23)])
    engine.composer.add(sequence)
    sizes = []
    while (plan := engine.step()) is not None:
        sizes.append([work.num_tokens for work in plan.rows])
    assert sizes == [[8], [8], [7], [1], [1], [1]]
    assert sequence.tokens == expected(sequence)


def test_siblings_wait_for_the_first_then_share_full_pages_and_copy_at_most_one() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=16, token_budget=64)
    siblings = [make(n, [1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1], max_tokens=6) for n in range(8)]
    for sibling in siblings:
        engine.composer.add(sibling)
    first = engine.step()
    assert first is not None and [work.sequence for work in first.rows] == siblings[:1]
    assert [sibling.status for sibling in siblings[1:]] == [SequenceStatus.WAITING] * 7
    second = engine.compose()
    assert second is not None
    assert [(work.num_tokens, work.start) for work in second.rows] == [(1, 11)] + [(1, 10)] * 7
    assert len(second.copies) == 7
    assert len({copy.src for copy in second.copies}) == 1
    assert all(sibling.pages[:2] == siblings[0].pages[:2] for sibling in siblings)
    engine.complete(second)
    engine.run()
    engine.check()
    assert all(sibling.tokens == expected(sibling) for sibling in siblings)
    assert [sibling.num_cached_tokens for sibling in siblings] == [0] + [10] * 7


def test_siblings_of_a_prompt_of_whole_pages_compute_only_its_last_token() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=16, token_budget=64)
    run_checked(engine, siblings := [make(n, [1, 2, 3, 4] * 3, max_tokens=9) for n in range(4)])
    assert [sibling.num_cached_tokens for sibling in siblings] == [0, 11, 11, 11]
    assert engine.num_copied == 3


def test_a_waiter_starts_as_soon_as_the_shared_part_of_a_longer_prompt_is_published() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=8)
    long = make(1, [1] * 40)
    short = make(2, [1] * 8 + [2] * 5)
    engine.composer.add(long)
    engine.composer.add(short)
    engine.step()
    assert short.status is SequenceStatus.WAITING
    engine.step()
    assert long.status is SequenceStatus.PREFILLING
    engine.run()
    assert short.num_cached_tokens == 8
    assert [long.tokens, short.tokens] == [expected(long), expected(short)]


@pytest.mark.parametrize("how", ["cancel", "finish in step"])
def test_waiters_go_on_when_the_one_that_computes_their_prefix_goes_away(how: str) -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=10)
    first, waiter = make(1, [1] * 40), make(2, [1] * 40)
    engine.composer.add(first)
    engine.composer.add(waiter)
    engine.step()
    assert waiter.status is SequenceStatus.PARKED
    if how == "cancel":
        engine.composer.cancel(1)
    else:
        plan = engine.compose()
        assert plan is not None
        engine.composer.cancel(1)
        assert first.row is not None, "pages of a step under way must stay"
        engine.complete(plan)
    assert first.status is SequenceStatus.ENDED
    engine.run()
    engine.check()
    assert waiter.tokens == expected(waiter)
    assert waiter.num_cached_tokens >= 8


def test_the_next_turn_of_a_chat_reuses_all_that_the_last_one_computed() -> None:
    engine = FakeEngine(num_pages=32, page_size=4, max_rows=4, token_budget=16)
    first = make(1, [1, 2, 3], max_tokens=7)
    run_checked(engine, [first])
    second = make(2, [*first.tokens, 4, 4])
    run_checked(engine, [second])
    assert second.num_cached_tokens == 9, "the last token of a turn is sampled but not computed"
    assert engine.num_copied == 1


def test_the_latest_in_order_gives_way_when_pages_run_out_and_ends_with_the_same_tokens() -> None:
    engine = FakeEngine(num_pages=12, page_size=4, max_rows=4, token_budget=64, headroom_pages=0)
    sequences = [make(n, [n] * 8, max_tokens=24, order=-n) for n in range(4)]
    for sequence in sequences:
        engine.composer.add(sequence)
    retracted: list[int] = []
    while (plan := engine.compose()) is not None:
        retracted += [sequence.request_id for sequence in plan.retracted]
        engine.complete(plan)
        engine.check()
    assert retracted[:2] == [0, 1]
    assert 3 not in retracted
    assert all(sequence.tokens == expected(sequence) for sequence in sequences)
    assert len(engine.finished) == 4


def test_headroom_keeps_a_full_pool_from_admitting_what_it_would_retract() -> None:
    engine = FakeEngine(num_pages=12, page_size=4, max_rows=4, token_budget=64, headroom_pages=4)
    run_checked(engine, [make(n, [n] * 8, max_tokens=16) for n in range(4)])
    assert engine.num_retracted == 0


def test_a_sequence_too_long_for_the_whole_pool_fails_with_the_numbers_and_others_go_on() -> None:
    engine = FakeEngine(num_pages=4, page_size=4, max_rows=4, token_budget=64)
    too_long, grows, fits = make(1, [1] * 17), make(2, [2] * 14, max_tokens=9), make(3, [3] * 4)
    reasons = []
    for sequence in (too_long, grows, fits):
        engine.composer.add(sequence)
    while (plan := engine.compose()) is not None:
        reasons += [failure.reason for failure in plan.failed]
        engine.complete(plan)
    engine.check()
    assert engine.failed == [too_long, grows]
    assert reasons == ["5 KV pages are needed, the whole pool has 4 (16 tokens)"] * 2
    assert fits.tokens == expected(fits)


def test_a_prompt_over_the_context_fails_and_names_the_limit() -> None:
    engine = FakeEngine(num_pages=4, page_size=4, max_rows=4, token_budget=64)
    engine.composer.add(make(1, [1] * 33))
    plan = engine.compose()
    assert plan is not None and not plan.num_rows
    assert plan.failed[0].reason == "33 tokens exceed the maximum context of 32 tokens"
    assert engine.composer.num_waiting == 0


def test_decodes_come_first_and_a_long_prompt_gets_only_the_rest_of_the_budget() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=12)
    decoding = [make(n, [n, n], max_tokens=30) for n in range(3)]
    for sequence in decoding:
        engine.composer.add(sequence)
    engine.step()
    engine.composer.add(make(9, [3] * 60))
    for _ in range(5):
        plan = engine.step()
        assert plan is not None
        assert plan.decodes == decoding
        assert [work.sequence.request_id for work in plan.chunks] == [9]


def test_prefills_start_in_the_order_of_the_scheduler_and_several_share_a_step() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=12)
    for request_id, order in ((1, 5), (2, 3), (3, 4)):
        engine.composer.add(make(request_id, [request_id] * 5, order=order))
    engine.composer.reorder(1, 0)
    plan = engine.step()
    assert plan is not None
    assert [(work.sequence.request_id, work.num_tokens) for work in plan.rows] == [(1, 5), (2, 5), (3, 2)]


def test_namespaces_share_nothing() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=64)
    sequences = [make(n, [1] * 9) for n in range(2)]
    sequences[1].namespace = b"other"
    run_checked(engine, sequences)
    assert [sequence.num_cached_tokens for sequence in sequences] == [0, 0]


def test_cancel_gives_row_and_pages_back_at_once_between_steps() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=64)
    engine.composer.add(make(1, [1] * 9))
    engine.composer.add(make(2, [2] * 9))
    engine.step()
    assert engine.composer.cancel(1) is not None
    assert engine.composer.cancel(1) is None
    assert engine.composer.num_running == 1
    engine.composer.cancel(2)
    engine.check()
    assert engine.tree.num_locked_pages == 0
    assert engine.composer.num_pages_used == 0
    assert engine.compose() is None


def test_a_sequence_with_tokens_from_elsewhere_resumes_where_it_was() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=64)
    whole = generate_alone([1, 2, 3], 9)
    resumed = Sequence(request_id=1, tokens=whole[:8], num_prompt=3, params=SamplingParams(max_tokens=9))
    engine.composer.add(resumed)
    engine.run()
    assert resumed.tokens == whole


def test_misuse_is_refused() -> None:
    engine = FakeEngine(num_pages=64, page_size=4, max_rows=4, token_budget=64)
    engine.composer.add(make(1, [1] * 9))
    with pytest.raises(ValueError, match="already here"):
        engine.composer.add(make(1, [2]))
    with pytest.raises(ValueError, match="no tokens"):
        engine.composer.add(make(2, []))
    plan = engine.compose()
    assert plan is not None
    with pytest.raises(RuntimeError, match="before the last plan"):
        engine.compose()
    with pytest.raises(ValueError, match="1 rows sample in this step, got 2"):
        engine.composer.record(plan.sampling, [1, 2])
    engine.complete(plan)
    with pytest.raises(RuntimeError, match="not under way"):
        engine.composer.advance(plan)
    with pytest.raises(ValueError, match="token_budget must be greater than max_rows"):
        ComposerLimits(max_rows=8, token_budget=8, max_context=10)
    with pytest.raises(ValueError, match=r"max_lines must not be less than max_rows \(8\), got 7"):
        ComposerLimits(max_rows=8, token_budget=9, max_context=10, max_lines=7)


def test_a_page_that_is_copied_from_is_not_given_to_another_row_in_the_same_step() -> None:
    engine = FakeEngine(num_pages=4, page_size=4, max_rows=4, token_budget=64, headroom_pages=0)
    run_checked(engine, [make(1, [1, 1, 1, 1, 2], max_tokens=1), make(2, [3, 3], max_tokens=1)])
    assert engine.tree.num_pages == 3
    both = [make(3, [1, 1, 1, 1, 2, 4], max_tokens=1), make(4, [3, 3, 4], max_tokens=1)]
    for sequence in both:
        engine.composer.add(sequence)
    plan = engine.step()
    assert plan is not None
    assert [work.sequence for work in plan.rows] == both
    assert {copy.src for copy in plan.copies}.isdisjoint(copy.dst for copy in plan.copies)
    assert [sequence.tokens for sequence in both] == [expected(sequence) for sequence in both]


def test_a_prompt_that_needs_every_page_gives_up_the_copy_of_a_cached_one() -> None:
    engine = FakeEngine(num_pages=2, page_size=4, max_rows=4, token_budget=64)
    run_checked(engine, [make(1, [1, 1], max_tokens=1)])
    run_checked(engine, [make(2, [1, 1, 2, 2, 3], max_tokens=2)])
    assert engine.num_copied == 0


def test_a_step_that_takes_pages_away_starts_nobody_new() -> None:
    engine = FakeEngine(num_pages=6, page_size=4, max_rows=2, token_budget=64, headroom_pages=0)
    for request_id in (1, 2):
        engine.composer.add(make(request_id, [request_id] * 8, max_tokens=12))
    engine.step()
    engine.composer.add(small := make(3, [3], max_tokens=1, order=0))
    while not (plan := engine.step()) or not plan.retracted:
        assert small.status is SequenceStatus.WAITING, "there is no row yet"
    assert [sequence.request_id for sequence in plan.retracted] == [2]
    assert [work.sequence.request_id for work in plan.rows] == [1]
    engine.step()
    assert small in engine.finished
    engine.run()
    assert [sequence.tokens for sequence in engine.finished] == [expected(sequence) for sequence in engine.finished]
    assert len(engine.finished) == 3


def test_an_abandoned_step_ends_its_sequences_and_leaves_nothing_of_it_in_the_cache() -> None:
    engine = FakeEngine(num_pages=16, page_size=4, max_rows=4, token_budget=64)
    run_checked(engine, [make(1, [1, 1, 1, 1, 2, 2], max_tokens=1)])
    lost = [make(2, [1, 1, 1, 1, 2, 2, 3], max_tokens=1), make(3, [4] * 9)]
    for sequence in lost:
        engine.composer.add(sequence)
    plan = engine.compose()
    assert plan is not None and len(plan.copies) == 1
    engine.composer.cancel(3)
    assert engine.composer.abandon(plan) == lost
    assert engine.composer.sequences == []
    engine.check()
    assert engine.tree.num_pages == engine.pool.num_used == 2
    with pytest.raises(RuntimeError, match="not under way"):
        engine.composer.abandon(plan)
    run_checked(engine, [make(4, [1, 1, 1, 1, 2, 2, 3], max_tokens=5)])


def test_a_prompt_beside_decodes_comes_in_small_chunks_and_takes_the_whole_step_when_alone() -> None:
    engine = FakeEngine(num_pages=512, page_size=4, max_rows=4, token_budget=600, mixed_token_budget=100)
    engine.composer.add(decoding := make(1, [1, 2, 3], max_tokens=4))
    engine.composer.add(alone := make(2, [4] * 800, max_tokens=1))
    first = engine.step()
    assert first is not None and [work.num_tokens for work in first.rows] == [3, 596]
    second = engine.step()
    assert second is not None and [work.num_tokens for work in second.rows] == [1, 100]
    engine.composer.cancel(1)
    engine.composer.add(late := make(3, [3] * 500, max_tokens=1))
    third = engine.step()
    assert third is not None and [work.num_tokens for work in third.rows] == [104, 496]
    engine.run()
    assert alone.tokens == expected(alone) and late.tokens == expected(late)
    assert decoding.status is SequenceStatus.ENDED


def test_a_short_prompt_behind_a_long_one_begins_at_once_and_the_long_one_moves_on() -> None:
    engine = FakeEngine(num_pages=512, page_size=4, max_rows=4, token_budget=300, mixed_token_budget=100)
    engine.composer.add(make(1, [1, 2, 3], max_tokens=30))
    engine.step()
    engine.composer.add(long := make(2, [4] * 1000, max_tokens=1))
    engine.step()
    engine.composer.add(short := make(3, [3] * 40, max_tokens=1))
    both = engine.step()
    assert both is not None
    assert sorted((work.sequence.request_id, work.num_tokens) for work in both.chunks) == [(2, 64), (3, 40)]
    assert short in engine.finished
    engine.run()
    assert long.tokens == expected(long) and short.tokens == expected(short)


def test_prompts_that_cannot_start_give_the_others_no_larger_chunks() -> None:
    engine = FakeEngine(num_pages=512, page_size=4, max_rows=2, token_budget=600, mixed_token_budget=100)
    engine.composer.add(make(1, [1, 2, 3], max_tokens=30))
    engine.step()
    for request_id in range(2, 60):
        engine.composer.add(make(request_id, [request_id] * 300, max_tokens=1))
    engine.composer.num_queued = 1000
    sizes = set()
    for _ in range(6):
        plan = engine.step()
        assert plan is not None
        sizes.add(sum(work.num_tokens for work in plan.chunks))
    assert sizes == {100}


LONG = [n * n % 7 % 5 for n in range(1001)]


def test_branches_of_a_base_share_its_pages_copy_one_and_compute_their_own_tokens() -> None:
    engine = FakeEngine(num_pages=600, page_size=4, max_rows=64, token_budget=400)
    base = Base(token_bytes(LONG[:-1]), b"")
    run_checked(engine, [branch(0, base, LONG[-1:])])
    assert base.found is not None and len(base.found.pages) == 250
    before = engine.num_computed
    children = [branch(1 + n, base, [LONG[-1], 10 + n, n], max_tokens=1) for n in range(64)]
    for child in children:
        engine.composer.add(child)
    plan = engine.compose()
    assert plan is not None and plan.num_rows == 64
    assert all(child.head is base.found.pages and len(child.pages) == 1 for child in children)
    assert len(plan.copies) == 64
    engine.complete(plan)
    # Each has the base's 1000 tokens from the cache, and the last token of the state from the page that it copies.
    assert engine.num_computed - before == 64 * 2
    engine.run()
    assert [child.since(0) for child in children] == [expected(child) for child in children]
    assert engine.pool.num_used == engine.tree.num_pages == 250 + 1 + 64


def test_a_base_that_nobody_has_computed_is_computed_once_and_by_its_tokens() -> None:
    engine = FakeEngine(num_pages=600, page_size=4, max_rows=16, token_budget=400)
    base = Base(token_bytes(LONG[:-1]), b"")
    run_checked(engine, [branch(n, base, [LONG[-1], n % 5, n // 5], max_tokens=1) for n in range(16)])
    assert engine.num_computed <= 1000 + 16 * 3
    assert base.found is not None


def test_a_base_whose_pages_are_gone_is_computed_again() -> None:
    engine = FakeEngine(num_pages=300, page_size=4, max_rows=16, token_budget=400)
    base = Base(token_bytes(LONG[:-1]), b"")
    run_checked(engine, [branch(1, base, LONG[-1:])])
    pin = base.found
    run_checked(engine, [make(2, [4] * 800, max_tokens=2)])
    assert pin is not None and base.found is None
    run_checked(engine, [branch(3, base, [0, 1])])
    assert base.found is not None


def test_what_is_not_pinned_makes_room_before_a_base_does() -> None:
    engine = FakeEngine(num_pages=400, page_size=4, max_rows=16, token_budget=400)
    base = Base(token_bytes(LONG[:400]), b"")
    run_checked(engine, [branch(1, base, [0])])
    for number in range(2, 12):
        run_checked(engine, [make(number, [1 + number % 4, number // 4] + [4] * 400)])
    before = engine.num_computed
    run_checked(engine, [branch(20, base, [1], max_tokens=1)])
    assert engine.num_computed - before == 1
    engine.composer.release_base(base)
    for number in range(22, 32):
        run_checked(engine, [make(number, [1 + number % 4, number // 4] + [3] * 400)])
    before = engine.num_computed
    run_checked(engine, [branch(40, base, [1], max_tokens=1)])
    assert engine.num_computed - before > 100


def test_branches_of_a_released_base_run_on() -> None:
    engine = FakeEngine(num_pages=600, page_size=4, max_rows=2, token_budget=400)
    base = Base(token_bytes(LONG[:-1]), b"")
    children = [branch(n, base, [LONG[-1], n]) for n in range(5)]
    for child in children:
        engine.composer.add(child)
    engine.step()
    engine.composer.release_base(base)
    engine.run()
    assert [child.since(0) for child in children] == [expected(child) for child in children]
    assert base.found is None
    assert not [pin for node in nodes_of(engine.tree) for pin in node.pins]
