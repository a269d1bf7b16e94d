"""The core at its limits: full queue, deadlines, drain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.columns import TokenBatch
from bough.common.sampling import FinishReason
from bough.scheduler.executors import StepReport
from bough.scheduler.failures import Code
from tests.scheduler.simulated import (
    CAPACITY,
    World,
    expected_tokens,
    submission,
    with_deadline,
)


def test_a_full_queue_refuses_all_siblings_and_says_when_to_come_back() -> None:
    world = World(max_queue=3, attached=False)
    world.submit(submission(1, 2))
    world.submit(submission(3, 4))
    world.receive()
    assert [(f.request, f.code) for f in world.inbox.failures] == [
        (3, Code.RESOURCE_EXHAUSTED),
        (4, Code.RESOURCE_EXHAUSTED),
    ]
    assert all(1000 <= f.retry_after_ms <= 60_000 for f in world.inbox.failures)
    assert "2 requests are waiting or running, and max_queue is 3" in world.inbox.failures[0].message


def test_retry_after_follows_the_rate_at_which_requests_end() -> None:
    world = World(max_queue=4)
    for request in range(8):
        world.submit(submission(request + 1, max_tokens=1))
        world.step()
        world.time.now_s += 4
    world.submit(submission(11, 12, 13, 14))
    world.submit(submission(15, 16))
    world.receive()
    assert world.inbox.failures[-1].retry_after_ms == pytest.approx(8000, rel=0.2)


def test_ended_requests_do_not_count_against_the_queue() -> None:
    world = World(max_queue=1)
    world.submit(submission(1))
    world.run()
    world.submit(submission(2))
    assert world.core.ledger.num_under_way == 1


def test_ended_requests_that_nobody_releases_are_bounded() -> None:
    world = World(max_queue=2)
    for request in range(1, 20):
        world.submit(submission(request, max_tokens=1))
        world.run()
    assert sorted(world.core.ledger.records) == [16, 17, 18, 19]
    assert sorted(world.consumer.records) == [16, 17, 18, 19]


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (submission(1, prompt=()), "prompt is empty"),
        (submission(1, prompt=(1,) * 512), "prompt has 512 tokens, but the model's context of 512"),
        (submission(1, 1), "holds an id twice"),
        (submission(*range(1, 100)), "99 siblings: max_queue is 64"),
    ],
)
def test_a_call_that_can_never_run_is_refused_with_the_reason(call: object, words: str) -> None:
    world = World()
    world.submit(call)  # type: ignore[arg-type]
    world.receive()
    assert {f.code for f in world.inbox.failures} == {Code.INVALID_ARGUMENT}
    assert words in world.inbox.failures[0].message
    world.assert_empty()


def test_a_prompt_queued_before_the_model_was_known_is_checked_when_it_is() -> None:
    world = World(attached=False)
    world.submit(submission(1, prompt=(1,) * 600))
    call = world.submit(submission(2))
    world.attach()
    world.run()
    assert world.inbox.finish[1] is FinishReason.ERROR
    assert [f.code for f in world.inbox.failures] == [Code.INVALID_ARGUMENT]
    assert world.inbox.tokens[2] == expected_tokens(call)


def test_a_deadline_ends_a_running_and_a_queued_request() -> None:
    world = World(capacity=replace(CAPACITY, max_rows=1, token_budget=1))
    now_ms = world.time.now_s * 1000
    world.submit(with_deadline(submission(1, max_tokens=400), now_ms + 2000))
    for request in range(2, 9):
        world.submit(with_deadline(submission(request, max_tokens=400), now_ms + 3000))
    assert len(world.core.queue)
    world.step(2)
    world.pass_time(2)
    assert world.orders().cancels == [1]
    world.pass_time(1)
    world.receive()
    assert set(world.inbox.finish.values()) == {FinishReason.CANCELLED}
    assert {f.code for f in world.inbox.failures} == {Code.DEADLINE_EXCEEDED}
    assert len(world.inbox.failures) == 8


def test_the_deadline_of_a_request_that_ended_is_forgotten() -> None:
    world = World()
    world.submit(with_deadline(submission(1), world.time.now_s * 1000 + 5000))
    assert len(world.core.timers) == 1
    world.run()
    assert len(world.core.timers) == 0


def test_a_call_whose_deadline_has_passed_is_refused() -> None:
    world = World()
    world.submit(with_deadline(submission(1), world.time.now_s * 1000 - 1))
    world.receive()
    assert [f.code for f in world.inbox.failures] == [Code.DEADLINE_EXCEEDED]
    world.assert_empty()


def test_requests_queue_while_no_executor_is_attached() -> None:
    world = World(attached=False)
    call = world.submit(submission(1))
    assert not world.core.ready
    world.attach()
    assert world.core.ready
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_draining_refuses_new_calls_and_lets_the_old_ones_end() -> None:
    world = World()
    call = world.submit(submission(1))
    world.core.draining = True
    world.submit(submission(2))
    world.run()
    assert [(f.request, f.code) for f in world.inbox.failures] == [(2, Code.UNAVAILABLE)]
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.core.quiet
    assert not world.core.ready


def test_retracted_requests_stay_with_their_executor_and_others_are_given_later() -> None:
    world = World()
    world.submit(submission(1))
    world.step()
    before = world.core.admission.output_ratio
    world.core.on_step(world.executor, StepReport(step=2, retracted=[1, 99]))
    assert 1 in world.executor.assigned
    assert world.core.admission.output_ratio > before


def test_ends_are_acknowledged_so_that_the_executor_can_forget_them() -> None:
    world = World()
    world.submit(submission(1, max_tokens=1))
    world.step()
    orders = world.executor.collect()
    assert orders is not None
    assert not orders.admits
    assert world.executor.collect() is None


def test_an_empty_batch_of_tokens_is_no_news() -> None:
    world = World()
    world.core.on_step(world.executor, StepReport(step=1, tokens=TokenBatch()))
    assert not world.consumer.has_news
