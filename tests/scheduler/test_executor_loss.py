"""The core when executors restart, lose their stream or stay away."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.columns import TokenRow
from bough.common.errors import MismatchError
from bough.common.sampling import FinishReason
from bough.scheduler.core import EXECUTOR_GRACE_S, MAX_FRUITLESS_DEATHS
from bough.scheduler.executors import StepReport
from tests.scheduler.simulated import (
    IDENTITY,
    SimulatedExecutor,
    World,
    expected_tokens,
    submission,
)


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
    world.core.on_released(world.consumer, 1)
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
