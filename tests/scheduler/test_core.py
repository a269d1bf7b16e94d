"""What happens to requests, seen through the core alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.columns import TokenRow
from bough.common.errors import UnavailableError
from bough.common.requests import RequestFailure
from bough.common.sampling import FinishReason, TokenLogprobs
from bough.scheduler.executors import StepReport
from bough.scheduler.failures import Code
from tests.scheduler.simulated import (
    World,
    expected_tokens,
    submission,
)


def test_a_request_gets_its_tokens_its_end_and_is_forgotten_when_released() -> None:
    world = World()
    call = world.submit(submission(1))
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.inbox.finish[1] is FinishReason.LENGTH
    assert [(s.request, s.cached_tokens) for s in world.inbox.started] == [(1, 0)]
    world.core.on_released(world.consumer, 1)
    world.assert_empty()


def test_siblings_are_admitted_in_one_order_and_sample_with_seeds_of_their_own() -> None:
    world = World()
    call = world.submit(submission(1, 2, 3))
    [admit] = world.orders().admits
    assert admit.requests == (1, 2, 3)
    world.run()
    assert [world.inbox.tokens[i + 1] for i in range(3)] == [expected_tokens(call, i) for i in range(3)]


def test_siblings_keep_their_seeds_when_one_between_them_was_cancelled_in_the_queue() -> None:
    world = World(attached=False)
    call = world.submit(submission(1, 2, 3, seed=2**64 - 1))
    world.core.on_cancel(world.consumer, 2)
    world.attach()
    assert [admit.requests for admit in world.orders().admits] == [(1,), (3,)]
    world.run()
    assert world.inbox.tokens == {1: expected_tokens(call, 0), 3: expected_tokens(call, 2)}


def test_a_step_reaches_the_consumer_as_one_message() -> None:
    world = World()
    world.submit(submission(1))
    world.submit(submission(2))
    world.orders()
    world.core.on_step(world.executor, world.process.step())
    update = world.consumer.collect()
    assert update is not None
    assert update.tokens.requests == [1, 2]
    assert world.consumer.collect() is None


def test_tokens_received_twice_change_nothing() -> None:
    world = World()
    call = world.submit(submission(1))
    world.orders()
    first, second = world.process.step(), world.process.step()
    for report in (first, second, first, second):
        world.core.on_step(world.executor, report)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_row_that_overlaps_the_record_adds_only_what_is_new() -> None:
    world = World()
    call = world.submit(submission(1))
    world.orders()
    world.core.on_step(world.executor, world.process.step())
    world.process.step()
    world.process.step()
    report = StepReport()
    report.tokens.append_row(TokenRow(1, 0, expected_tokens(call)[:3]))
    world.core.on_step(world.executor, report)
    world.receive()
    assert world.inbox.tokens[1] == expected_tokens(call)[:3]


def test_a_gap_is_an_error_of_the_stream_and_a_resume_mends_it() -> None:
    world = World()
    call = world.submit(submission(1))
    world.orders()
    world.process.step()
    with pytest.raises(UnavailableError, match="tokens 0 to 0 are missing"):
        world.core.on_step(world.executor, world.process.step())
    world.core.on_executor_lost(world.executor)
    world.attach()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_tokens_of_requests_that_are_not_known_are_ignored() -> None:
    world = World()
    report = StepReport(step=1)
    report.tokens.append(99, 7, 1)
    world.core.on_step(world.executor, report)
    assert world.consumer.collect() is None


def test_log_probabilities_are_recorded_and_sent_again_on_a_resume() -> None:
    world = World()
    call = submission(1, max_tokens=2)
    world.submit(replace(call, sampling=replace(call.sampling, top_logprobs=1)))
    world.orders()
    entries = [TokenLogprobs(logprob=-0.5, rank=1, top_ids=(4,), top_logprobs=(-0.5,)) for _ in range(2)]
    for position in range(2):
        report = StepReport(step=position + 1)
        finish = FinishReason.LENGTH if position else FinishReason.NONE
        report.tokens.append_row(TokenRow(1, position, [position], finish, [entries[position]]))
        world.core.on_step(world.executor, report)
    second = world.new_consumer()
    world.core.on_resume(second, 1, 0)
    update = second.collect()
    assert update is not None
    [row] = update.tokens.rows()
    assert row.logprobs == entries
    assert row.finish is FinishReason.LENGTH


def test_a_request_whose_log_probabilities_are_missing_fails() -> None:
    world = World()
    call = submission(1)
    world.submit(replace(call, sampling=replace(call.sampling, top_logprobs=0)))
    world.step()
    assert world.inbox.finish[1] is FinishReason.ERROR
    assert world.inbox.failures[0].code == Code.INTERNAL
    assert world.orders().cancels == [1]


def test_a_failure_reported_by_the_executor_ends_the_request_with_its_message() -> None:
    world = World()
    world.submit(submission(1))
    world.step()
    report = StepReport(step=9, failures=[RequestFailure(1, Code.INTERNAL, "out of luck")])
    report.tokens.append_row(TokenRow(1, 1, [], FinishReason.ERROR))
    world.core.on_step(world.executor, report)
    world.receive()
    assert world.inbox.finish[1] is FinishReason.ERROR
    assert world.inbox.ends[1] == 1
    assert [f.message for f in world.inbox.failures] == ["out of luck"]


def test_a_failure_without_a_row_still_ends_the_request() -> None:
    world = World()
    world.submit(submission(1))
    world.step()
    world.core.on_step(world.executor, StepReport(failures=[RequestFailure(1, Code.INTERNAL, "out of luck")]))
    world.receive()
    assert world.inbox.finish[1] is FinishReason.ERROR
