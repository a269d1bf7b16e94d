"""Programs: their states, their leases, and the requests that go on from them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bough.common.errors import InvalidRequestError, NotFoundError, OverloadedError, UnavailableError
from bough.common.requests import StateRef, Submission
from bough.common.sampling import FinishReason, SamplingParams
from bough.scheduler.failures import Code
from bough.scheduler.program_orders import (
    Cut,
    Extend,
    Fork,
    Join,
    Look,
    Release,
    StateAnswer,
    StateOrder,
    UnknownOrder,
)
from bough.scheduler.programs import MAX_CHILDREN, MAX_LEASE_S, ProgramLimits
from tests.scheduler.simulated import PROGRAM, World, expected_tokens, submission

ROOT = (1, 2, 3, 4, 5)


def on_state(state: int, *requests: int, prompt: tuple[int, ...] = (), max_tokens: int = 5) -> Submission:
    """A call that goes on from a state."""
    call = submission(*requests, prompt=prompt, max_tokens=max_tokens)
    return replace(call, base=StateRef(PROGRAM, state), base_tail=(99,))


def tokens_of(world: World, state: int) -> tuple[int, ...]:
    """All tokens of a state, as a request sees them."""
    return tuple(world.core.programs.find(StateRef(PROGRAM, state))[1].tokens.prompt().tokens)


def only(answers: list[StateAnswer]) -> StateAnswer:
    [answer] = answers
    return answer


def test_orders_are_carried_out_in_their_order_and_answer_with_length_and_tail() -> None:
    world = World()
    answers = world.change(
        Extend(0, tuple(range(20))),
        Fork(0, (1, 2)),
        Extend(1, (7,), 20),
        Cut(2, 3),
        Look(0),
        Release((0,)),
        Extend(2, ()),
    )
    assert [(a.length, a.code) for a in answers] == [(20, 0), (20, 0), (21, 0), (3, 0), (20, 0), (0, 0), (3, 0)]
    assert answers[1].tail == tuple(range(4, 20))
    assert answers[2].tail == (*range(5, 20), 7)
    assert (answers[3].tail, answers[5].tail) == ((0, 1, 2), ())


def test_a_join_adds_what_each_branch_has_got_since_it_branched_and_releases_it() -> None:
    world = World()
    world.change(Extend(0, ROOT), Fork(0, (1, 2, 3)), Extend(1, (10, 11)), Extend(2, (20,)), Extend(0, (6,)))
    assert only(world.change(Join(0, (2, 1)))).length == 9
    assert tokens_of(world, 0) == (*ROOT, 6, 20, 10, 11)
    assert [a.code for a in world.change(Look(1), Look(2), Look(3))] == [Code.NOT_FOUND, Code.NOT_FOUND, 0]


def test_a_branch_that_was_cut_below_its_beginning_gives_what_it_has_got_since() -> None:
    world = World()
    world.change(Extend(0, ROOT), Fork(0, (1,)), Extend(1, (10,)), Cut(1, 2), Extend(1, (30,)), Join(0, (1,)))
    assert tokens_of(world, 0) == (*ROOT, 30)


NO_BRANCH = (
    Join(0, (2,)),  # of a branch
    Join(1, (0,)),  # the other way round
    Join(0, (0,)),
    Join(5, (4,)),  # of a state that had this number before
    Join(0, (1, 1)),
    Join(0, (6,)),  # joined before
)


@pytest.mark.parametrize("order", NO_BRANCH)
def test_a_join_of_what_is_no_branch_is_refused_and_changes_nothing(order: Join) -> None:
    world = World()
    world.change(Extend(0, ROOT), Fork(0, (1, 5, 6)), Fork(1, (2,)), Fork(5, (4,)), Join(0, (6,)))
    world.change(Release((5,)), Fork(0, (5,)), *(Extend(state, (state,)) for state in (1, 2, 4, 5)))
    before = {state: tokens_of(world, state) for state in (0, 1, 2, 4, 5)}
    answer = only(world.change(order))
    assert answer.code == Code.FAILED_PRECONDITION
    assert {state: tokens_of(world, state) for state in (0, 1, 2, 4, 5)} == before


REFUSED: tuple[tuple[StateOrder, Code, str], ...] = (
    (Extend(9, (1,)), Code.NOT_FOUND, "state: 9 is not there"),
    (Fork(9, (1,)), Code.NOT_FOUND, "state: 9"),
    (Join(9, (1,)), Code.NOT_FOUND, "state: 9"),
    (Join(0, (9,)), Code.NOT_FOUND, "state: 9"),
    (Join(0, ()), Code.INVALID_ARGUMENT, "children: is empty"),
    (Cut(9, 1), Code.NOT_FOUND, "state: 9"),
    (Look(9), Code.NOT_FOUND, "state: 9"),
    (Release((1, 9)), Code.NOT_FOUND, "state: 9"),
    (Cut(0, 6), Code.INVALID_ARGUMENT, "length: got 6, accepted are 0 to 5"),
    (Fork(0, (8, 1)), Code.ALREADY_EXISTS, "children: state 1 exists"),
    (Fork(0, (8, 8)), Code.INVALID_ARGUMENT, "children: a number is there twice"),
    (Fork(0, ()), Code.INVALID_ARGUMENT, "children: got 0 numbers, accepted are 1 to 1024"),
    (Fork(0, tuple(range(10, 11 + MAX_CHILDREN))), Code.INVALID_ARGUMENT, "children: got 1025 numbers"),
    (Extend(0, (1,), 4), Code.ABORTED, "state 0: has 5 tokens, expected are 4: another call has changed it"),
    (Extend(0, (1,), 0), Code.ABORTED, "state 0: has 5 tokens, expected are 0"),
    (Extend(0, (1, 1000)), Code.INVALID_ARGUMENT, "tokens: got 1000, accepted are token ids from 0 to 999"),
    (Extend(0, (1,) * 508), Code.INVALID_ARGUMENT, "5 tokens, 508 more make 513, accepted are at most 512"),
    (UnknownOrder(), Code.INVALID_ARGUMENT, "order: is missing"),
)


@pytest.mark.parametrize(("order", "code", "words"), REFUSED)
def test_an_order_is_refused_with_the_reason_and_changes_nothing(order: StateOrder, code: Code, words: str) -> None:
    world = World()
    world.change(Extend(0, ROOT), Fork(0, (1,)))
    answers = world.change(order, Extend(1, (6,)))
    assert (answers[0].code, answers[0].length, answers[0].tail) == (code, 0, ())
    assert words in answers[0].message
    assert answers[1].code == 0
    assert (tokens_of(world, 0), tokens_of(world, 1)) == (ROOT, (*ROOT, 6))
    assert world.core.programs.num_states == 2


def test_a_state_may_fill_the_context_to_the_last_token() -> None:
    world = World()
    assert only(world.change(Extend(0, (1,) * 512))).length == 512


@pytest.mark.parametrize(
    ("limits", "order", "words"),
    [
        (ProgramLimits(max_states=3), Fork(0, (2, 3)), "2 states and 2 more, accepted are at most 3 in a program"),
        (ProgramLimits(max_states_in_all=3), Fork(0, (2, 3)), "all programs have 2 states"),
        (ProgramLimits(max_tokens=9), Extend(0, (1,) * 5), "hold 5 tokens, and 5 more make more than 9"),
    ],
)
def test_states_and_tokens_are_bounded(limits: ProgramLimits, order: StateOrder, words: str) -> None:
    world = World(program_limits=limits)
    world.change(Extend(0, ROOT), Fork(0, (1,)))
    answer = only(world.change(order))
    assert answer.code == Code.RESOURCE_EXHAUSTED and words in answer.message
    assert tokens_of(world, 0) == ROOT


def test_programs_are_bounded_and_a_closed_one_makes_room() -> None:
    world = World(program_limits=ProgramLimits(max_programs=1))
    world.change()
    with pytest.raises(OverloadedError, match="1 programs are open"):
        world.change(program=b"q" * 16)
    world.change(close=True)
    world.change(program=b"q" * 16)


@pytest.mark.parametrize("lease_s", [0, MAX_LEASE_S + 1])
def test_a_lease_beyond_its_bounds_is_refused(lease_s: int) -> None:
    with pytest.raises(InvalidRequestError, match=f"lease_s: got {lease_s}, accepted are 1 to 3600"):
        World().change(lease_s=lease_s)


def test_a_program_is_named_by_16_bytes() -> None:
    with pytest.raises(InvalidRequestError, match="program: has 3 bytes, accepted are 16"):
        World().change(program=b"abc")


def test_a_program_that_is_not_known_is_opened_only_by_a_call_with_a_lease() -> None:
    world = World()
    with pytest.raises(NotFoundError, match=r"program: 7070.* is not known here"):
        world.change(Look(0), lease_s=None)
    world.change()
    assert only(world.change(Look(0), lease_s=None)).code == 0


def test_a_lease_runs_from_the_last_call_and_may_be_changed() -> None:
    world = World()
    world.change(Extend(0, ROOT), lease_s=10)
    world.pass_time(9)
    world.change(lease_s=None)
    world.pass_time(9)
    world.change(lease_s=3)
    world.pass_time(2)
    world.submit(on_state(0, 1))
    world.run()
    world.core.on_released(world.consumer, 1)
    world.pass_time(2)
    assert len(world.core.programs) == 1
    world.pass_time(1)
    world.assert_empty()
    assert len(world.core.timers) == 0
    with pytest.raises(NotFoundError):
        world.change(lease_s=None)


@pytest.mark.parametrize("closes", [True, False])
def test_the_end_of_a_program_cancels_its_requests_queued_and_running(closes: bool) -> None:
    world = World()
    world.change(Extend(0, ROOT), lease_s=10)
    world.submit(on_state(0, *range(1, 10), max_tokens=50))
    other = world.submit(submission(20, prompt=(3, 3)))
    world.step(2)
    assert len(world.core.queue)
    if closes:
        assert only(world.change(Look(0), close=True)).length == 5
    else:
        world.pass_time(10)
    world.receive()
    assert {world.inbox.finish[request] for request in range(1, 10)} == {FinishReason.CANCELLED}
    assert sorted(world.orders().cancels) == list(range(1, 10))
    world.run()
    assert world.inbox.tokens[20] == expected_tokens(other)
    for request in (*range(1, 10), 20):
        world.core.on_released(world.consumer, request)
    world.assert_empty()


def test_draining_opens_no_program_but_lets_the_old_ones_go_on() -> None:
    world = World()
    world.change(Extend(0, ROOT))
    world.core.draining = True
    assert only(world.change(Look(0))).length == 5
    with pytest.raises(UnavailableError, match="shutting down"):
        world.change(program=b"q" * 16)


# Requests that go on from a state


def test_a_request_goes_on_from_the_tokens_of_its_state_and_what_it_brings_itself() -> None:
    world = World()
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1, 2, prompt=(8,)))
    [admit] = world.orders().admits
    assert (admit.requests, admit.prompt, admit.cache_namespace) == ((1, 2), (*ROOT, 8), b"salt")
    world.run()
    whole = replace(call, prompt=(*ROOT, 8))
    assert [world.inbox.tokens[i + 1] for i in range(2)] == [expected_tokens(whole, i) for i in range(2)]
    assert tokens_of(world, 0) == ROOT


def test_a_change_of_a_state_does_not_change_what_goes_on_from_it_already() -> None:
    world = World(attached=False)
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1))
    world.change(Cut(0, 1), Extend(0, (9,)))
    world.change(Release((0,)))
    world.attach()
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=ROOT))


def test_requests_on_equal_states_share_one_prompt_and_its_hashes() -> None:
    world = World(attached=False)
    world.change(Extend(0, (1,) * 400), Fork(0, tuple(range(1, 9))))
    for state in range(1, 9):
        world.submit(on_state(state, state))
        world.submit(on_state(state, 100 + state, prompt=(7, 7)))
    prompts = [record.submission.prompt for record in world.core.ledger.records.values()]
    assert len({id(prompt) for prompt in prompts}) == 2
    assert {len(prompt) for prompt in prompts} == {400, 402}
    assert len({id(record.prompt) for record in world.core.ledger.records.values()}) == 2


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (StateRef(PROGRAM, 5), f"base.state: program {PROGRAM.hex()} has no state 5"),
        (StateRef(b"q" * 16, 0), f"program: {(b'q' * 16).hex()} is not known here"),
    ],
)
def test_a_base_that_is_not_there_is_refused_by_its_name(ref: StateRef, words: str) -> None:
    world = World()
    world.change(Extend(0, ROOT))
    world.submit(replace(submission(1, 2), base=ref))
    world.receive()
    assert [(f.request, f.code) for f in world.inbox.failures] == [(1, Code.NOT_FOUND), (2, Code.NOT_FOUND)]
    assert words in world.inbox.failures[0].message


def test_an_empty_state_without_a_prompt_is_refused() -> None:
    world = World()
    world.change()
    world.submit(on_state(0, 1))
    world.receive()
    assert [(f.code, f.message) for f in world.inbox.failures] == [
        (Code.INVALID_ARGUMENT, "prompt is empty: at least one token is needed")
    ]


@pytest.mark.parametrize("attached", [True, False])
def test_base_prompt_and_given_output_must_fit_the_context_together(attached: bool) -> None:
    world = World(attached=attached)
    world.change(Extend(0, (1,) * 500))

    def forced(request: int, num_tokens: int) -> Submission:
        sampling = SamplingParams(max_tokens=num_tokens, forced_ids=(1,) * num_tokens, ignore_eos=True)
        return replace(on_state(0, request, prompt=(2,)), sampling=sampling)

    world.submit(on_state(0, 1, prompt=(2,) * 12))
    world.submit(forced(2, 12))
    world.submit(forced(3, 11))
    if not attached:
        world.attach()
    world.run()
    assert {f.request: f.code for f in world.inbox.failures} == dict.fromkeys((1, 2), Code.INVALID_ARGUMENT)
    assert "prompt has 512 tokens" in world.inbox.failures[0].message
    assert "prompt has 501 tokens and forced_ids 12" in world.inbox.failures[1].message
    assert world.inbox.finish[3] is FinishReason.LENGTH


def test_a_request_that_goes_on_from_a_state_is_resumed_by_its_whole_prompt() -> None:
    world = World()
    world.change(Extend(0, tuple(range(30))))
    world.submit(on_state(0, 1, prompt=(40, 41)))
    world.step()
    second = world.new_consumer()
    world.core.on_resume(second, 1, 0)
    update = second.collect()
    assert update is not None
    [resumed] = update.resumed
    assert (resumed.prompt_tokens, resumed.prompt_tail) == (32, (*range(16, 30), 40, 41))


def test_a_request_outlives_its_executor_and_the_release_of_its_state() -> None:
    world = World()
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1, prompt=(6,), max_tokens=20))
    world.step(3)
    world.change(Release((0,)))
    world.restart()
    [admit] = world.orders().admits
    assert (admit.prompt, len(admit.produced)) == ((*ROOT, 6), 3)
    world.run()
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=(*ROOT, 6)))


def test_a_call_that_is_sent_again_is_the_one_that_is_known_whatever_became_of_its_state() -> None:
    world = World()
    world.change(Extend(0, ROOT))
    call = world.submit(on_state(0, 1))
    world.change(Release((0,)))
    world.submit(call)
    world.run()
    assert not world.inbox.failures
    assert world.inbox.tokens[1] == expected_tokens(replace(call, prompt=ROOT))
