"""What happens to requests, seen through the core alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import MismatchError, UnavailableError
from bough.common.requests import RequestFailure
from bough.common.sampling import FinishReason, TokenLogprobs
from bough.scheduler.core import EXECUTOR_GRACE_S, MAX_FRUITLESS_DEATHS
from bough.scheduler.executors import StepReport
from bough.scheduler.failures import Code
from tests.scheduler.simulated import (
    CAPACITY,
    IDENTITY,
    Inbox,
    SimulatedExecutor,
    World,
    expected_tokens,
    submission,
    with_deadline,
)


def test_a_request_gets_its_tokens_its_end_and_is_forgotten_when_released() -> None:
    world = World()
    call = world.submit(submission(1))
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.inbox.finish[1] is FinishReason.LENGTH
    assert [(s.request, s.cached_tokens) for s in world.inbox.started] == [(1, 0)]
    world.core.on_released(1)
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


@pytest.mark.parametrize("tokens_before", [0, 1, 3])
def test_a_request_goes_on_from_its_position_after_its_executor_restarted(tokens_before: int) -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(tokens_before)
    world.orders()
    world.restart()
    [admit] = world.orders().admits
    assert list(admit.produced) == expected_tokens(call)[:tokens_before]
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert len(world.inbox.started) == 1


def test_siblings_that_had_not_begun_travel_together_again_after_a_restart() -> None:
    world = World()
    call = world.submit(submission(1, 2))
    world.orders()
    world.restart()
    assert [admit.requests for admit in world.orders().admits] == [(1, 2)]
    world.run()
    assert world.inbox.tokens == {1: expected_tokens(call, 0), 2: expected_tokens(call, 1)}


def test_an_order_lost_with_a_broken_stream_is_given_again() -> None:
    world = World()
    call = world.submit(submission(1))
    world.executor.collect()
    world.core.on_executor_lost(world.executor)
    world.attach()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_what_the_executor_ended_while_its_stream_was_broken_arrives_after_it() -> None:
    world = World()
    call = world.submit(submission(1))
    world.orders()
    world.core.on_executor_lost(world.executor)
    for _ in range(5):
        world.process.step()
    world.attach()
    world.receive()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.inbox.finish[1] is FinishReason.LENGTH


def test_an_executor_that_both_delivers_and_begins_again_is_told_to_stop() -> None:
    world = World()
    call = world.submit(submission(1, max_tokens=2))
    world.step()
    world.core.on_executor_lost(world.executor)
    world.process.step()
    attachment, report = world.process.attach(world.executor.resumes())
    world.core.on_executor_attached(world.executor, replace(attachment, running=frozenset()))
    assert [admit.requests for admit in world.orders().admits] == [(1,)]
    world.core.on_step(world.executor, report)
    world.receive()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.orders().cancels == [1]


def test_a_restart_counts_the_prompt_as_work_again_until_the_next_token() -> None:
    world = World()
    world.submit(submission(1, max_tokens=9))
    world.step(2)
    assert len(world.executor.backlog) == 0
    world.restart()
    assert world.executor.backlog.num_tokens == 5
    world.step()
    assert len(world.executor.backlog) == 0


def test_a_late_answer_to_an_earlier_cancel_does_not_end_a_request_that_came_back() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    report = StepReport(step=3)
    report.tokens.append_row(TokenRow(1, 2, [], FinishReason.CANCELLED))
    world.core.on_step(world.executor, report)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)
    assert world.inbox.finish[1] is FinishReason.LENGTH


def test_deaths_do_not_add_up_while_there_is_progress() -> None:
    world = World()
    call = world.submit(submission(1, max_tokens=20))
    for _ in range(MAX_FRUITLESS_DEATHS + 3):
        world.step()
        world.restart()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_a_request_whose_executors_keep_dying_without_a_token_fails_at_last() -> None:
    world = World()
    world.submit(submission(1))
    for _ in range(MAX_FRUITLESS_DEATHS + 1):
        world.orders()
        world.restart()
    world.receive()
    assert world.inbox.finish[1] is FinishReason.ERROR
    world.core.on_released(1)
    world.assert_empty()


def test_another_executor_takes_over_when_one_stays_away() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.core.on_executor_lost(world.executor)
    lost, other = world.executor, SimulatedExecutor(epoch=77)
    world.executor = world.core.add_executor("executor-1", lambda: None)
    world.process = other
    world.attach()
    assert lost.assigned
    world.pass_time(EXECUTOR_GRACE_S)
    assert not lost.assigned
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_an_executor_that_comes_late_takes_what_has_waited_long_enough() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.core.on_executor_lost(world.executor)
    world.pass_time(EXECUTOR_GRACE_S)
    world.executor, world.process = world.core.add_executor("executor-1", lambda: None), SimulatedExecutor(epoch=5)
    world.attach()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_an_executor_that_is_removed_gives_its_requests_back() -> None:
    world = World()
    call = world.submit(submission(1))
    world.step(2)
    world.core.remove_executor(world.executor)
    assert not world.core.ready
    world.executor, world.process = world.core.add_executor("executor-1", lambda: None), SimulatedExecutor(epoch=5)
    world.attach()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(call)


def test_an_executor_with_another_model_is_refused() -> None:
    world = World()
    attachment, _ = SimulatedExecutor(epoch=2).attach([])
    with pytest.raises(MismatchError, match="vocab_size differs: 1000 here, 5 at executor"):
        world.core.on_executor_attached(world.executor, replace(attachment, identity=replace(IDENTITY, vocab_size=5)))


def test_a_consumer_with_another_model_is_refused_or_cut_once_the_model_is_known() -> None:
    other = replace(IDENTITY, revision="ffff")
    world = World(attached=False)
    world.new_consumer(identity=other)
    world.attach()
    assert [type(error) for error in world.cuts] == [MismatchError]
    with pytest.raises(MismatchError, match="revision differs"):
        world.new_consumer(identity=other)


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
    world.core.on_released(1)
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
