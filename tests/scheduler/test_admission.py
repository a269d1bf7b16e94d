"""Which request goes to the executor when."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.requests import StateRef
from bough.scheduler.admission import LOOKAHEAD_STEPS
from bough.scheduler.executors import CacheChange, Capacity, StepReport
from bough.scheduler.mirror import PromptHashes
from bough.scheduler.policy import AdmissionPolicy, FirstComeFirstServed, LongestPrefixMatch
from bough.scheduler.program_orders import Extend
from tests.scheduler.simulated import CAPACITY, World, submission

WIDE = Capacity(num_pages=10_000, page_size=4, max_rows=2, token_budget=1000)


def admitted(world: World) -> list[int]:
    """Ids in the order in which the executor got them."""
    return [request for admit in world.process.admitted for request in admit.requests]


def cache(world: World, prompt: tuple[int, ...], namespace: bytes = b"") -> None:
    """The executor says that it holds a prompt's full pages."""
    hashes = PromptHashes(namespace, (*prompt, 0), CAPACITY.page_size)
    stored = tuple(hashes[i] for i in range(len(prompt) // CAPACITY.page_size))
    world.core.on_step(world.executor, StepReport(cache=CacheChange(stored=stored)))


def test_fcfs_starts_in_the_order_of_arrival() -> None:
    world = World(policy=FirstComeFirstServed(), capacity=WIDE, max_queue=100)
    for request in range(1, 30):
        world.submit(submission(request))
    world.run()
    assert admitted(world) == list(range(1, 30))


def test_a_larger_priority_starts_first() -> None:
    world = World(attached=False)
    for request, priority in ((1, 0), (2, 5), (3, -1), (4, 5)):
        world.submit(replace(submission(request), priority=priority))
    world.attach()
    world.run()
    assert admitted(world) == [2, 4, 1, 3]


def test_a_request_that_had_begun_goes_before_the_queue_after_a_restart() -> None:
    world = World(capacity=replace(WIDE, max_rows=1))
    world.submit(submission(1, max_tokens=50))
    world.step()
    for request in range(2, 9):
        world.submit(replace(submission(request), priority=1))
    world.restart()
    world.orders()
    assert admitted(world)[0] == 1


def test_orders_are_numbered_as_they_are_admitted() -> None:
    world = World(attached=False)
    for request, priority in ((1, 0), (2, 5), (3, 5)):
        world.submit(replace(submission(request), priority=priority))
    world.attach()
    world.orders()
    assert [(admit.requests, admit.order) for admit in world.process.admitted] == [((2,), 0), ((3,), 1), ((1,), 2)]


def test_only_a_small_surplus_over_the_rows_is_given() -> None:
    world = World(capacity=WIDE)
    for request in range(1, 20):
        world.submit(submission(request))
    assert len(world.executor.assigned) == 2 + 2
    world.step()
    assert len(world.executor.assigned) == 4
    world.step(4)
    assert len(world.executor.assigned) == 4
    assert admitted(world) == [1, 2, 3, 4]
    world.step()
    assert len(admitted(world)) == 6


def test_prefill_is_given_a_few_steps_ahead() -> None:
    world = World(capacity=replace(WIDE, max_rows=100, token_budget=8))
    for request in range(1, 20):
        world.submit(submission(request, prompt=(request,) * 8))
    assert len(world.executor.assigned) == LOOKAHEAD_STEPS


def test_a_prompt_that_is_being_computed_makes_room_for_further_requests() -> None:
    world = World(capacity=replace(WIDE, max_rows=100, token_budget=10))
    world.submit(submission(1, prompt=(1,) * 100))
    world.submit(submission(2))

    def report(step: int, prefill_tokens: int) -> None:
        gauges = replace(world.process.gauges(), prefill_tokens=prefill_tokens)
        world.core.on_step(world.executor, StepReport(step=step, gauges=gauges))

    report(1, 5000)  # what was computed before the scheduler came says nothing
    assert list(world.executor.assigned) == [1]
    report(2, 5001)
    assert list(world.executor.assigned) == [1, 2]


def test_a_request_waits_while_the_pages_are_taken() -> None:
    world = World(capacity=replace(CAPACITY, num_pages=20))
    world.submit(submission(1, prompt=(1,) * 60))
    world.submit(submission(2, prompt=(2,) * 60))
    assert list(world.executor.assigned) == [1]
    world.run()
    assert admitted(world) == [1, 2]


def test_a_prompt_that_the_cache_holds_needs_no_pages() -> None:
    world = World(capacity=replace(CAPACITY, num_pages=10))
    cache(world, (1,) * 60)
    world.submit(submission(1, prompt=(1,) * 60))
    world.submit(submission(2, prompt=(1,) * 60))
    assert list(world.executor.assigned) == [1, 2]


def test_an_idle_executor_gets_a_request_whatever_its_size() -> None:
    world = World(capacity=replace(CAPACITY, num_pages=2))
    world.submit(submission(1, prompt=(1,) * 60))
    assert list(world.executor.assigned) == [1]


def test_more_siblings_than_rows_are_given_together() -> None:
    world = World(capacity=WIDE)
    world.submit(submission(*range(1, 10)))
    assert [len(admit.requests) for admit in world.orders().admits] == [9]


def test_lpm_prefers_the_longest_cached_prefix_of_the_same_namespace() -> None:
    world = World(policy=LongestPrefixMatch(), capacity=replace(WIDE, max_rows=1))
    hot = (5,) * 40
    cache(world, hot)
    world.submit(submission(101, 102, 103))
    world.submit(submission(1))
    world.submit(replace(submission(2, prompt=hot), cache_namespace=b"tenant"))
    world.submit(submission(3, prompt=hot[:20]))
    world.submit(submission(4, prompt=hot))
    world.run()
    assert admitted(world)[3:] == [4, 3, 1, 2]


def test_lpm_overtakes_nobody_without_end() -> None:
    bypass = 3
    world = World(policy=LongestPrefixMatch(max_bypass=bypass), capacity=replace(WIDE, max_rows=1))
    hot = (5,) * 40
    cache(world, hot)
    for request in range(1, 4):
        world.submit(submission(request, prompt=hot))
    world.submit(submission(1000))
    world.submit(submission(1001))
    for request in range(4, 40):
        world.submit(submission(request, prompt=hot))
    world.run()
    order = admitted(world)
    assert order.index(1000) == 3 + bypass
    assert order.index(1001) == order.index(1000) + 1 + bypass


def test_lpm_does_not_let_a_cached_prefix_beat_a_priority() -> None:
    world = World(policy=LongestPrefixMatch(), capacity=replace(WIDE, max_rows=1))
    cache(world, (5,) * 40)
    for request in range(1, 4):
        world.submit(submission(request))
    world.submit(submission(4, prompt=(5,) * 40))
    world.submit(replace(submission(5), priority=1))
    world.run()
    assert admitted(world)[3:] == [5, 4]


@pytest.mark.parametrize("policy", [FirstComeFirstServed(), LongestPrefixMatch()])
def test_the_program_that_came_first_ends_first_and_a_request_without_one_keeps_its_place(
    policy: AdmissionPolicy,
) -> None:
    world = World(policy=policy, capacity=replace(WIDE, max_rows=1), attached=False)
    programs, roots = (b"a" * 16, b"b" * 16), ((5,) * 40, (6,) * 40)
    for program, root in zip(programs, roots, strict=True):
        world.change(Extend(0, root), program=program)
    for request in range(1, 11):  # of the second program first
        world.submit(replace(submission(request, prompt=(request,)), base=StateRef(programs[request % 2], 0)))
        if request == 2:
            world.submit(submission(100, prompt=(7,) * 41))
    late = b"c" * 16
    world.change(Extend(0, (7,) * 40), program=late)
    world.submit(replace(submission(11), base=StateRef(late, 0)))
    world.submit(replace(submission(200), priority=1))
    world.attach()
    for root in (*roots, (7,) * 40):  # all have as much in the cache, so lpm prefers none
        cache(world, root, b"salt")
    cache(world, (7,) * 40)
    world.run()
    assert admitted(world) == [200, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 100, 11]


def test_a_program_under_way_is_finished_before_another_one_is_taken_up() -> None:
    world = World(capacity=replace(WIDE, max_rows=1))
    programs = (b"a" * 16, b"b" * 16)
    for program in programs:
        world.change(Extend(0, (1,)), program=program)
    for request in range(1, 20):
        world.submit(replace(submission(request), base=StateRef(programs[1], 0)))
    given = admitted(world) + [request for admit in world.orders().admits for request in admit.requests]
    for request in range(101, 104):
        world.submit(replace(submission(request), base=StateRef(programs[0], 0)))
    world.run()
    assert admitted(world)[: len(given) + 3] == [*given, 101, 102, 103]


def test_an_executor_is_told_roughly_how_many_requests_wait_and_again_after_it_comes_back() -> None:
    world = World(capacity=WIDE)
    for request in range(1, 3):
        world.submit(submission(request))
    assert world.orders().queued is None
    for request in range(3, 40):
        world.submit(submission(request))
    waiting = len(world.core.queue)
    queued = world.orders().queued
    assert queued is not None and abs(queued - waiting) < 8
    assert world.orders().queued is None
    world.executor.resumes()
    assert world.orders().queued == queued
