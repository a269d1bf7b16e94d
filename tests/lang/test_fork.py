"""Branches of a state: side by side, joined, released, and what goes wrong."""

from __future__ import annotations

import asyncio

import pytest

from bough.lang import AsyncState, ExpressionError, Fake, FakeCall, State, StateError, assistant, function, gen, user
from bough.lang.backends.local import LocalSession
from tests.lang.programs import Gate, no_task_left, run


def test_branches_go_on_side_by_side() -> None:
    gates = [asyncio.Event(), asyncio.Event()]

    async def answer(call: FakeCall) -> str:
        # Each waits for the other one to have begun.
        number = int(call.text[-1])
        gates[number].set()
        await gates[1 - number].wait()
        return f"<{number}>"

    def program(s: State) -> None:
        s += "Branch "
        group = s.fork(2)
        group += lambda number: str(number)
        group += gen("x")
        group.join()

    assert run(program, Fake(answer))["x"] == ["<0>", "<1>"]


def test_a_group_takes_an_item_for_all_or_one_for_each() -> None:
    def program(s: State) -> None:
        with s.fork(2) as group:
            group += "same "
            group += ["left", "right"]
            group[1] += "!"
            assert [child.text() for child in group] == ["same left", "same right!"]
            assert len(group) == 2
            with pytest.raises(ExpressionError, match="got 1 items, accepted are 2"):
                group += ["only one"]
            with pytest.raises(ExpressionError, match="branch 0 cannot be replaced"):
                group[0] = s

    run(program)


def test_join_makes_new_variables_lists_and_may_append_the_texts() -> None:
    def program(s: State) -> None:
        s += "Start"
        s["old"] = 1
        group = s.fork(2)
        group += [" one", " two"]
        group[0] += gen("x")
        group[0]["mine"] = "m"
        group[1] += gen("x")
        s += " here"
        group.join(append=True)
        s += "." + gen("end")
        assert group[0]["x"] == s["x"][0]

    backend = Fake(lambda call: call.text[-3:].upper())
    result = run(program, backend)
    assert result["x"] == ["ONE", "TWO"] and result["mine"] == ["m", None] and result["old"] == 1
    assert backend.calls[-1].text == "Start here oneONE twoTWO."
    assert result.text() == "Start here oneONE twoTWO.WO."


def test_turns_of_branches_are_appended_as_turns() -> None:
    def program(s: State) -> None:
        s += user("Hello")
        group = s.fork(2)
        group += [assistant(gen("x")), assistant("No")]
        group.join(append=True)

    messages = run(program, Fake(["Yes"])).messages()
    assert [message["content"] for message in messages] == ["Hello", "Yes", "No"]


def test_a_branch_that_ends_within_a_turn_is_not_appended_outside_of_it() -> None:
    def program(s: State) -> None:
        group = s.fork(1)
        group[0] += user("Hello")
        turn = group[0].assistant()
        turn.__enter__()
        group.join(append=True)

    with pytest.raises(
        ExpressionError, match="a branch ends in a turn of assistant and the state is outside"
    ) as caught:
        run(program)
    assert any("group.join(append=True)" in note for note in caught.value.__notes__)


def test_a_branch_is_used_up_by_its_join() -> None:
    def program(s: State) -> None:
        group = s.fork(2)
        group += gen("x")
        group.join()
        with pytest.raises(StateError, match="a state that was joined cannot be joined"):
            group.join()
        with pytest.raises(StateError, match="a state that was joined cannot be added to"):
            group[0] += "more"
        with pytest.raises(StateError, match="a state that was joined cannot be forked"):
            group[0].fork(2)

    run(program)


def test_a_released_state_does_nothing_more_and_keeps_what_it_has() -> None:
    def program(s: State) -> None:
        with s.copy() as attempt:
            attempt += gen("x")
            assert attempt["x"] == "it"
        assert attempt["x"] == "it"
        for use in (lambda: attempt.fork(2), lambda: attempt.mark(), lambda: attempt.__iadd__("more")):
            with pytest.raises(StateError, match="a state that was released cannot be"):
                use()

    assert run(program, Fake(["it"])).text() == ""


def test_a_fork_of_nothing_is_refused() -> None:
    def program(s: State) -> None:
        with pytest.raises(ExpressionError, match="fork: got 0"):
            s.fork(0)

    run(program)


def test_a_mark_of_another_state_is_refused() -> None:
    def program(s: State) -> None:
        mark = s.mark()
        with s.copy() as other, pytest.raises(StateError, match="another state"):
            other.rollback(mark)

    run(program)


async def test_leaving_a_group_cancels_what_its_branches_do() -> None:
    gate = Gate()
    backend = Fake(gate.answer)

    @function
    async def program(s: AsyncState) -> None:
        async with s.fork(8) as group:
            group += gen("x")
            await gate.until_arrived(8)
        with pytest.raises(StateError, match="released before this was done"):
            await group[0]["x"]

    async with no_task_left():
        await program.arun(backend=backend)
    assert backend.num_under_way == 0


async def test_the_first_branch_to_answer_can_end_the_others() -> None:
    gate = Gate()

    async def answer(call: FakeCall) -> str:
        return "fast" if call.text.endswith("2") else await gate.answer(call)

    @function
    async def race(s: AsyncState) -> str:
        async with s.fork(3) as group:
            group += lambda number: str(number)
            group += gen("x")

            async def read(child: AsyncState) -> str:
                text: str = await child["x"]
                return text

            tasks = [asyncio.create_task(read(child)) for child in group]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            winner = done.pop().result()
        await asyncio.gather(*tasks, return_exceptions=True)
        return winner

    async with no_task_left():
        assert (await race.arun(backend=Fake(answer))).value == "fast"


async def test_a_branch_that_is_released_before_its_fork_is_done_is_given_up() -> None:
    backend = Fake()

    @function
    async def program(s: AsyncState) -> int:
        s += gen("x")
        s.fork(3)[1].release()
        await s.sync()
        session = s._core.running.session
        assert isinstance(session, LocalSession)
        return session.num_states

    assert (await program.arun(backend=backend)).value == 3


async def test_a_thousand_states_go_on_at_once() -> None:
    gate = Gate("ready")
    backend = Fake(gate.answer)

    @function
    async def wide(s: AsyncState) -> list[str]:
        s += "One of many: "
        group = s.fork(1000)
        group += gen("x")
        group.join()
        await gate.until_arrived(1000)
        gate.open()
        values: list[str] = await s["x"]
        return values

    async with no_task_left():
        assert (await wide.arun(backend=backend)).value == ["ready"] * 1000
