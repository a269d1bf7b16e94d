"""The core towards its consumers: cancels, stop strings, resumes, grace."""

from __future__ import annotations

import pytest

from bough.common.sampling import FinishReason
from bough.scheduler.failures import Code
from tests.scheduler.simulated import (
    Inbox,
    World,
    expected_tokens,
    submission,
)


def test_a_cancelled_request_is_gone_and_its_executor_told() -> None:
    world = World()
    world.submit(submission(1))
    world.step()
    world.core.on_cancel(world.consumer, 1)
    assert world.orders().cancels == [1]
    assert not world.process.rows
    world.assert_empty()


def test_a_request_cancelled_before_its_order_left_is_never_ordered() -> None:
    world = World()
    world.submit(submission(1))
    world.core.on_cancel(world.consumer, 1)
    assert world.executor.collect() is None
    world.assert_empty()


def test_a_consumer_cannot_release_what_another_one_has_taken_over() -> None:
    world = World()
    call = world.submit(submission(1))
    first, world.consumer = world.consumer, world.new_consumer()
    world.core.on_resume(world.consumer, 1, 0)
    world.core.on_released(first, 1)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_consumer_cannot_cancel_what_another_one_has_taken_over() -> None:
    world = World()
    call = world.submit(submission(1))
    first, world.consumer = world.consumer, world.new_consumer()
    world.core.on_resume(world.consumer, 1, 0)
    world.core.on_cancel(first, 1)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_stop_string_cuts_the_record_and_frees_the_executor() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(3)
    world.core.on_stopped(world.consumer, 1, 2)
    assert world.orders().cancels == [1]
    world.core.on_resume(world.consumer, 1, 0)
    update = world.consumer.collect()
    assert update is not None
    [row] = update.tokens.rows()
    assert (row.tokens, row.finish) == (expected_tokens(call)[:2], FinishReason.STOP_STRING)
    world.core.on_released(world.consumer, 1)
    world.assert_empty()


def test_a_stop_string_found_after_the_end_still_counts() -> None:
    world = World()
    world.submit(submission(1))
    world.run()
    world.core.on_stopped(world.consumer, 1, 4)
    world.core.on_resume(world.consumer, 1, 5)
    update = world.consumer.collect()
    assert update is not None
    [row] = update.tokens.rows()
    assert (row.position, row.tokens, row.finish) == (4, [], FinishReason.STOP_STRING)


def test_requests_outlive_their_consumer_and_a_resume_gets_everything() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.core.on_consumer_lost(world.consumer)
    world.step(1)
    world.consumer, world.inbox = world.new_consumer(), Inbox()
    world.core.on_resume(world.consumer, 1, 0)
    update = world.consumer.collect()
    assert update is not None
    [resumed] = update.resumed
    assert (resumed.prompt_tail, resumed.prompt_tokens) == (call.prompt, 3)
    assert [s.request for s in update.started] == [1]
    world.inbox.take(update)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_resume_of_a_stream_that_still_receives_does_not_mix_with_older_rows() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.orders()
    world.core.on_step(world.executor, world.process.step())
    world.core.on_resume(world.consumer, 1, 0)
    before = world.consumer.collect()
    assert before is not None
    assert (before.tokens.positions, before.resumed) == ([2], [])
    after = world.consumer.collect()
    assert after is not None
    assert [row.tokens for row in after.tokens.rows()] == [expected_tokens(call)[:3]]


def test_a_resume_carries_all_tokens_up_to_its_message_in_one_row() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.core.on_resume(world.consumer, 1, 0)
    world.orders()
    world.core.on_step(world.executor, world.process.step())
    update = world.consumer.collect()
    assert update is not None
    assert [row.tokens for row in update.tokens.rows()] == [expected_tokens(call)[:3]]


def test_a_resume_of_a_request_cancelled_before_it_was_sent_says_nothing() -> None:
    world = World()
    world.submit(submission(1))
    world.core.on_resume(world.consumer, 1, 0)
    world.core.on_cancel(world.consumer, 1)
    assert world.consumer.collect() is None


def test_many_resumes_are_spread_over_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bough.scheduler.consumers.RESUME_TOKENS_PER_MESSAGE", 8)
    world = World()
    for request in range(1, 5):
        world.submit(submission(request))
    world.run()
    world.core.on_consumer_lost(world.consumer)
    world.consumer = world.new_consumer()
    for request in range(1, 5):
        world.core.on_resume(world.consumer, request, 0)
    sizes = []
    while (update := world.consumer.collect()) is not None:
        sizes.append(len(update.resumed))
    assert sizes == [2, 2]


def test_requests_nobody_came_back_for_are_dropped_after_the_grace() -> None:
    world = World()
    world.submit(submission(1))
    world.submit(submission(2, max_tokens=1))
    world.step(2)
    world.core.on_consumer_lost(world.consumer)
    world.pass_time(9.9)
    assert len(world.core.ledger.records) == 2
    world.pass_time(0.2)
    assert world.orders().cancels == [1]
    world.assert_empty()


def test_a_resumed_request_is_not_dropped_when_the_grace_of_its_old_consumer_ends() -> None:
    world = World()
    call = world.submit(submission(1))
    world.core.on_consumer_lost(world.consumer)
    world.consumer = world.new_consumer()
    world.core.on_resume(world.consumer, 1, 0)
    world.pass_time(60)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_submit_of_known_ids_is_a_resume_from_the_start() -> None:
    world = World()
    call = world.submit(submission(1, 2))
    world.step(2)
    world.consumer, world.inbox = world.new_consumer(), Inbox()
    world.submit(call)
    world.run()
    assert world.inbox.resumed == [1, 2]
    assert world.inbox.tokens == {1: expected_tokens(call, 0), 2: expected_tokens(call, 1)}
    assert len(world.process.admitted) == 1


def test_a_resume_of_an_unknown_request_is_answered_with_not_found() -> None:
    world = World()
    world.core.on_resume(world.consumer, 5, 0)
    world.receive()
    assert [(f.request, f.code) for f in world.inbox.failures] == [(5, Code.NOT_FOUND)]


def test_a_resume_from_beyond_the_record_is_refused() -> None:
    world = World()
    world.submit(submission(1))
    world.step(2)
    world.core.on_resume(world.consumer, 1, 3)
    world.receive()
    assert [f.code for f in world.inbox.failures] == [Code.INVALID_ARGUMENT]
