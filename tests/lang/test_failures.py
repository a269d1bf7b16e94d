"""Errors: where they are raised, which line they tell, and what they end. Cancellation, and what it leaves."""

from __future__ import annotations

import asyncio
import threading

import pytest

from bough.common.errors import OverloadedError
from bough.lang import AsyncState, Fake, State, StateError, function, gen
from tests.lang.programs import Gate, no_task_left, run

FULL = OverloadedError("the queue is full")


def test_an_error_is_raised_where_the_variable_is_read_and_tells_the_line_of_the_call() -> None:
    def program(s: State) -> None:
        s += "before" + gen("x")  # this line
        s += gen("y")
        with pytest.raises(OverloadedError, match="the queue is full") as caught:
            s["x"]
        (note,) = caught.value.__notes__
        assert note.startswith("in program, test_failures.py:") and 's += "before" + gen("x")  # this line' in note

    backend = Fake({"x": OverloadedError("the queue is full"), "y": "never"})
    run(program, backend)
    assert [call.name for call in backend.calls] == ["x"]


def test_an_error_that_nobody_reads_is_raised_at_the_end() -> None:
    def program(s: State) -> None:
        s += gen("x")

    with pytest.raises(OverloadedError):
        run(program, Fake([OverloadedError("full")]))


def test_after_an_error_everything_that_is_read_of_the_state_raises_it() -> None:
    def program(s: State) -> None:
        s += gen("x")
        s += "more"
        reads = (lambda: s["x"], s.text, s.messages, s.sync, lambda: s.meta("x"), lambda: list(s.text_iter()))
        for read in (*reads, lambda: s.fork(2)[1].text(), lambda: list(s.text_iter("x"))):
            with pytest.raises(OverloadedError):
                read()

    run(program, Fake([FULL]))


def test_a_program_that_expects_an_error_goes_on_with_another_branch() -> None:
    def program(s: State) -> None:
        s += "Try: "
        with s.copy() as attempt:
            attempt += gen("x")
            try:
                s["x"] = attempt["x"]
            except OverloadedError:
                s += "failed"

    assert run(program, Fake([FULL])).text() == "Try: failed"


def test_an_error_in_a_branch_is_raised_where_its_join_is_read() -> None:
    def program(s: State) -> None:
        group = s.fork(3)
        group += lambda number: gen("x") if number == 1 else str(number)
        group.join()
        s += gen("after")
        with pytest.raises(OverloadedError) as caught:
            s["x"]
        assert len(caught.value.__notes__) == 2 and "group.join()" in caught.value.__notes__[1]

    backend = Fake({"x": OverloadedError("full"), "after": "never"})
    run(program, backend)
    assert [call.name for call in backend.calls] == ["x"]


def test_an_error_in_a_branch_that_is_never_joined_is_raised_at_the_end() -> None:
    def program(s: State) -> None:
        group = s.fork(2)
        group[0] += gen("x")

    with pytest.raises(OverloadedError):
        run(program, Fake([OverloadedError("full")]))


def test_what_the_function_raises_wins_and_cancels_its_calls() -> None:
    async def never(_: object) -> str:
        await asyncio.Event().wait()
        return ""

    backend = Fake(never)

    def program(s: State) -> None:
        s.fork(5).__iadd__(gen("x"))
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        run(program, backend)
    assert backend.num_under_way == backend.num_sessions == 0


async def test_who_still_waits_when_a_run_ends_is_told() -> None:
    gate = Gate()

    async def read(s: AsyncState) -> None:
        await s["x"]

    @function
    async def program(s: AsyncState) -> None:
        s += gen("x")
        readers.append(asyncio.create_task(read(s)))
        await gate.until_arrived()
        raise ValueError("enough")

    readers: list[asyncio.Task[None]] = []
    with pytest.raises(ValueError, match="enough"):
        await program.arun(backend=Fake(gate.answer))
    with pytest.raises(StateError, match="the program ended before this was done"):
        await readers[0]


async def test_a_run_that_is_cancelled_leaves_no_task_and_no_call() -> None:
    gate = Gate()
    backend = Fake(gate.answer)

    @function
    async def program(s: AsyncState) -> None:
        s.fork(10).__iadd__(gen("x"))
        s += gen("y")
        await s["y"]

    async with no_task_left():
        task = asyncio.create_task(program.arun(backend=backend))
        await gate.until_arrived(11)
        assert backend.num_under_way == 11
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert backend.num_under_way == backend.num_sessions == 0


async def test_a_plain_program_that_is_cancelled_ends_with_its_thread() -> None:
    gate, ended, handled = Gate(), threading.Event(), threading.Event()
    backend = Fake(gate.answer)

    @function
    def program(s: State) -> None:
        try:
            s += gen("x")
            try:
                s["x"]
            except Exception:
                handled.set()
        finally:
            ended.set()

    async with no_task_left():
        task = asyncio.create_task(program.arun(backend=backend))
        await gate.until_arrived()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert ended.is_set() and not handled.is_set() and backend.num_under_way == 0


async def test_a_state_that_outlives_its_run_says_so() -> None:
    kept: list[State] = []

    @function
    def program(s: State) -> None:
        s += "text" + gen("x")
        kept.append(s)

    await program.arun(backend=Fake(["it"]))
    assert kept[0]["x"] == "it"
    for use in (kept[0].text, lambda: kept[0].__iadd__("more")):
        with pytest.raises(StateError, match="the program has ended"):
            use()


async def test_a_plain_state_does_not_block_the_event_loop() -> None:
    @function
    async def program(s: AsyncState) -> None:
        plain = State(s._core)
        plain += gen("x")
        with pytest.raises(RuntimeError, match="use AsyncState"):
            plain["x"]

    await program.arun(backend=Fake())


async def test_a_blocking_run_is_refused_where_an_event_loop_runs() -> None:
    @function
    def program(s: State) -> None:
        s += "text"

    uses = (
        lambda: program.run(backend=Fake()),
        lambda: program.run_batch([{}], backend=Fake()),
        lambda: program.stream(backend=Fake()),
        program.trace,
    )
    for use in uses:
        with pytest.raises(RuntimeError, match="await arun instead"):
            use()
