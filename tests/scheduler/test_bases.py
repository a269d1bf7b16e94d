"""Orders name what an executor has of a program's states, and send the rest."""

from __future__ import annotations

from dataclasses import replace

from bough.common.requests import StateRef, Submission
from bough.scheduler.bases import MIN_BASE_TOKENS, KnownBases
from bough.scheduler.executors import AdmitOrder
from bough.scheduler.program_orders import Cut, Extend, Fork, Release
from bough.scheduler.prompts import SharedPrompt
from tests.scheduler.simulated import CAPACITY, PROGRAM, SimulatedExecutor, World, expected_tokens, submission

ROOT = tuple(range(100, 400))


def on_state(state: int, *requests: int, prompt: tuple[int, ...] = ()) -> Submission:
    return replace(submission(*requests, prompt=prompt), base=StateRef(PROGRAM, state))


def large_world(*, attached: bool = True) -> World:
    """With room for all requests at once."""
    return World(capacity=replace(CAPACITY, num_pages=4000, max_rows=16, token_budget=4096), attached=attached)


def named(admits: list[AdmitOrder]) -> list[tuple[int, tuple[int, ...]]]:
    return [(admit.base, tuple(admit.prompt)) for admit in admits]


def test_a_state_travels_once_for_all_its_branches() -> None:
    world = large_world()
    world.change(Extend(0, ROOT), Fork(0, tuple(range(1, 5))))
    calls = []
    for state in range(1, 5):
        world.change(Extend(state, (state,)))
        calls.append(world.submit(on_state(state, state, prompt=(9,))))
    orders = world.orders()
    [base] = orders.bases
    assert (base.parent, tuple(base.tokens), base.cache_namespace) == (0, ROOT[:-1], b"salt")
    assert named(orders.admits) == [(base.id, (ROOT[-1], state, 9)) for state in range(1, 5)]
    calls.append(world.submit(on_state(0, 5)))
    world.step()
    assert named(world.process.admitted[-1:]) == [(base.id, ROOT[-1:])]
    world.run()
    wholes = [(*ROOT, state, 9) for state in range(1, 5)] + [ROOT]
    for call, whole in zip(calls, wholes, strict=True):
        assert world.inbox.tokens[call.requests[0]] == expected_tokens(replace(call, prompt=whole))


def test_a_state_that_has_grown_much_is_a_base_on_top_of_the_one_before() -> None:
    bases = KnownBases(least_tokens=10)
    first = SharedPrompt(tuple(range(20)))
    grown = SharedPrompt(tuple(range(20, 25)), first)
    long = SharedPrompt(tuple(range(25, 40)), grown)
    for prompt in (first, grown, long):
        prompt.is_kept = True
    assert bases.find(grown, b"") == (1, 19)
    assert bases.find(long, b"") == (2, 39)
    [one, two] = bases.collect()[0]
    assert (one.parent, list(one.tokens)) == (0, list(range(19)))
    assert (two.parent, list(two.tokens)) == (1, list(range(19, 39)))
    assert bases.find(long, b"") == (2, 39) and not bases.has_news


def test_bases_are_bounded_and_those_named_longest_ago_go_first() -> None:
    bases = KnownBases(least_tokens=10, most_tokens=70)
    states = [SharedPrompt((number,) * 31) for number in range(3)]
    for state in states:
        state.is_kept = True
    one, two = (bases.find(state, b"")[0] for state in states[:2])
    assert bases.find(states[0], b"") == (one, 30)
    bases.collect()
    three, _ = bases.find(states[2], b"")
    assert bases.collect()[1] == [two]
    assert [bases.find(states[number], b"")[0] for number in (0, 2)] == [one, three]
    huge = SharedPrompt((9,) * 100)
    huge.is_kept = True
    assert bases.find(huge, b"")[1] == 99, "one is always possible"
    assert sorted(bases.collect()[1]) == [one, three]
    bases.release_all()
    assert bases._num_tokens == 0


def test_short_states_and_prompts_that_are_not_kept_are_sent_whole() -> None:
    bases = KnownBases()
    short, gone = SharedPrompt(tuple(range(MIN_BASE_TOKENS))), SharedPrompt(ROOT * 2)
    short.is_kept = True
    assert (bases.find(short, b""), bases.find(gone, b"")) == ((0, 0), (0, 0))
    assert not bases.has_news


def test_bases_go_with_the_states_that_they_are_of() -> None:
    world = large_world()
    woken: list[int] = []
    world.executor.wake = lambda: woken.append(1)
    world.change(Extend(0, ROOT), Fork(0, (1, 2)))
    world.submit(on_state(1, 1))
    [base] = world.orders().bases
    world.run()
    world.change(Release((0, 1)))
    assert len(world.executor.bases) == 1, "another state begins with it"
    world.receive()
    world.orders()
    woken.clear()
    world.change(Release((2,)))
    assert woken and world.orders().released_bases == [base.id]
    assert not world.process.bases


def test_bases_go_when_states_are_cut_or_the_program_ends_and_requests_run_on() -> None:
    world = large_world()
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1))
    world.orders()
    world.change(Cut(0, 280))
    world.step()
    assert not world.process.bases
    other = world.submit(on_state(0, 2))
    [base] = world.orders().bases
    assert tuple(base.tokens) == ROOT[:279]
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=ROOT))
    assert world.inbox.tokens[2] == expected_tokens(replace(other, prompt=ROOT[:280]))
    world.change(close=True)
    assert world.orders().released_bases == [base.id]


def test_a_request_that_outlives_its_state_is_sent_whole_and_leaves_no_base() -> None:
    world = large_world(attached=False)
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1))
    world.change(Release((0,)))
    world.attach()
    orders = world.orders()
    assert (orders.bases, named(orders.admits)) == ([], [(0, ROOT)])
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=ROOT))


def test_a_restarted_executor_is_told_of_everything_again() -> None:
    world = large_world()
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1))
    world.step(2)
    world.restart()
    orders = world.orders()
    assert len(orders.bases) == 1
    [admit] = orders.admits
    assert (admit.base, admit.produced) == (orders.bases[0].id, tuple(world.inbox.tokens[1]))
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=ROOT))


def test_a_new_stream_to_the_same_process_is_told_again_too() -> None:
    world = large_world()
    world.change(Extend(0, ROOT))
    world.submit(on_state(0, 1))
    world.step()
    world.core.on_executor_lost(world.executor)
    world.attach()
    call = world.submit(on_state(0, 2, prompt=(7,)))
    [base] = world.orders().bases
    assert world.process.admitted[-1].base == base.id
    world.run()
    assert world.inbox.tokens[2] == expected_tokens(replace(call, prompt=(*ROOT, 7)))


def test_what_an_executor_does_not_know_is_sent_whole() -> None:
    world = large_world()
    world.change(Extend(0, ROOT))
    world.submit(on_state(0, 1))
    world.step()
    world.process.bases.clear()
    calls = [world.submit(on_state(0, 2)), world.submit(on_state(0, 3, prompt=(5,)))]
    world.step()
    orders = world.orders()
    assert named(orders.admits)[0] == (0, ROOT)
    world.run()
    assert world.inbox.tokens[2] == expected_tokens(replace(calls[0], prompt=ROOT))
    assert world.inbox.tokens[3] == expected_tokens(replace(calls[1], prompt=(*ROOT, 5)))
    assert not world.inbox.failures


def test_an_executor_that_does_not_take_bases_gets_whole_prompts() -> None:
    world = large_world(attached=False)
    attachment, report = SimulatedExecutor().attach(world.executor.resumes())
    world.core.on_executor_attached(world.executor, replace(attachment, takes_bases=False))
    world.core.on_step(world.executor, report)
    world.change(Extend(0, ROOT))
    world.submit(on_state(0, 1))
    orders = world.orders()
    assert (orders.bases, named(orders.admits)) == ([], [(0, ROOT)])
