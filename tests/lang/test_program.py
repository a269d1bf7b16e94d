"""Programs: arguments, ways to run them, batches, streams."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from bough.common.errors import OverloadedError
from bough.lang import (
    AsyncState,
    ExpressionError,
    Fake,
    FakeCall,
    State,
    StateError,
    UnknownVariableError,
    function,
    gen,
)
from tests.lang.programs import Gate, no_task_left


@function
def greet(s: State, name: str, n: int = 1) -> str:
    """Greets."""
    s += f"Dear {name}" + gen("end", max_tokens=3)
    return str(s["end"]) * n


@function
async def agreet(s: AsyncState, name: str) -> str:
    s += f"Dear {name}" + gen("end")
    text: str = await s["end"]
    return text


def echo(call: FakeCall) -> str:
    return call.text.split()[-1]


def test_a_plain_program_and_an_async_one_run_from_plain_code() -> None:
    assert greet.run("Ann", n=2, backend=Fake(echo)).value == "AnnAnn"
    assert agreet.run(name="Ann", backend=Fake(echo)).value == "Ann"


async def test_a_plain_program_and_an_async_one_run_from_async_code() -> None:
    assert (await greet.arun("Ann", backend=Fake(echo))).value == "Ann"
    assert (await agreet.arun(name="Ann", backend=Fake(echo))).value == "Ann"


def test_options_of_a_run_are_defaults_that_gen_overrides() -> None:
    backend = Fake()
    greet.run("Ann", temperature=0.5, max_tokens=9, stop="x", backend=backend)
    agreet.run("Ann", backend=backend)
    first, second = (call.sampling for call in backend.calls)
    assert (first.temperature, first.max_tokens, first.stop) == (0.5, 3, ("x",))
    assert (second.temperature, second.max_tokens) == (None, 128)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"nam": "Ann"}, "greet: takes no nam; did you mean name?"),
        ({"name": "Ann", "temprature": 1}, "greet: takes no temprature; did you mean temperature?"),
        ({}, "greet: missing a required argument: 'name'"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_before_anything_runs(arguments: dict[str, Any], message: str) -> None:
    backend = Fake()
    for run in (lambda: greet.run(backend=backend, **arguments), lambda: greet.run_batch([arguments], backend=backend)):
        with pytest.raises(ExpressionError) as caught:
            run()
        assert message in str(caught.value)
    assert backend.calls == []


def test_a_function_that_can_be_no_program_is_refused() -> None:
    with pytest.raises(ExpressionError, match="has no parameter"):
        function(lambda: None)  # type: ignore[arg-type, misc]
    with pytest.raises(ExpressionError, match="a parameter is called backend"):

        @function
        def program(s: State, backend: str) -> None: ...


def test_a_program_keeps_its_name_and_its_doc() -> None:
    assert greet.__name__ == "greet" and greet.__doc__ == "Greets."  # type: ignore[attr-defined]


def test_a_program_is_a_part_of_another_one() -> None:
    @function
    def letter(s: State) -> str:
        first = greet(s, "Ann")
        s += "\n"
        return first + greet(s, name="Bob")

    result = letter.run(backend=Fake(echo))
    assert result.value == "AnnBob" and result.text() == "Dear AnnAnn\nDear BobBob"


async def test_an_async_program_is_a_part_of_another_one() -> None:
    @function
    async def letter(s: AsyncState) -> list[str]:
        async with s.fork(2) as group:
            return list(await asyncio.gather(agreet(group[0], "Ann"), agreet(group[1], "Bob")))

    assert (await letter.arun(backend=Fake(echo))).value == ["Ann", "Bob"]


def test_a_result_has_the_variables_by_name() -> None:
    result = greet.run("Ann", backend=Fake(echo))
    assert list(result) == ["end"] and "end" in result and "x" not in result
    assert result["end"] == "Ann" and repr(result) == "<Result of end>"
    with pytest.raises(UnknownVariableError):
        result.meta("x")


def test_a_batch_keeps_its_order_and_gives_each_failure_in_its_place() -> None:
    def answer(call: FakeCall) -> str:
        if "3" in call.text:
            raise OverloadedError("full")
        return echo(call)

    results = greet.run_batch([{"name": str(i)} for i in range(6)], backend=Fake(answer), temperature=0.0)
    assert [None if result.error else result.value for result in results] == ["0", "1", "2", None, "4", "5"]
    assert isinstance(results[3].error, OverloadedError) and "failed" in repr(results[3])
    for read in (lambda: results[3].value, lambda: results[3]["end"], results[3].text, lambda: list(results[3])):
        with pytest.raises(OverloadedError):
            read()


async def test_a_batch_that_raises_cancels_the_rest() -> None:
    gate = Gate()

    async def answer(call: FakeCall) -> str:
        if "3" in call.text:
            await gate.until_arrived(5)
            raise OverloadedError("full")
        return await gate.answer(call)

    backend = Fake(answer)
    async with no_task_left():
        with pytest.raises(OverloadedError):
            await greet.arun_batch([{"name": str(i)} for i in range(6)], backend=backend, raise_errors=True)
    assert backend.num_under_way == backend.num_sessions == 0


@pytest.mark.parametrize("program", [greet, agreet], ids=["plain", "async"])
async def test_a_batch_runs_no_more_programs_at_once_than_it_may(program: Any) -> None:
    most, gate = 0, asyncio.Event()

    async def answer(call: FakeCall) -> str:
        nonlocal most
        most = max(most, backend.num_under_way)
        if backend.num_under_way == 4:
            gate.set()
        await gate.wait()
        return echo(call)

    backend = Fake(answer)
    results = await program.arun_batch([{"name": str(i)} for i in range(12)], backend=backend, concurrency=4)
    assert [result.value for result in results] == [str(i) for i in range(12)] and most == 4
    with pytest.raises(ExpressionError, match="concurrency: got 0"):
        await program.arun_batch([{"name": "x"}], backend=backend, concurrency=0)


def test_a_batch_shows_a_bar_where_asked_for(capfd: pytest.CaptureFixture[str]) -> None:
    greet.run_batch([{"name": str(i)} for i in range(3)], backend=Fake(), progress=True)
    assert "greet" in (shown := capfd.readouterr().err) and "3/3" in shown
    greet.run_batch([{"name": "x"}], backend=Fake())
    assert capfd.readouterr().err == ""


def test_a_batch_of_nothing_is_nothing() -> None:
    assert greet.run_batch([], backend=Fake()) == []


def test_a_run_is_read_while_it_goes_on() -> None:
    backend = Fake(["one two", "three"])

    @function
    def count(s: State, upto: int) -> int:
        s += "Count: " + gen("a") + "; " + gen("b")
        return upto

    with count.stream(2, backend=backend) as stream:
        with pytest.raises(StateError, match="has not ended"):
            _ = stream.result
        assert list(stream) == ["Count: ", "one", " two", "; ", "three"]
    assert stream.result.value == 2 and stream.result["b"] == "three"


async def test_a_variable_is_read_while_it_comes() -> None:
    stream = agreet.astream("Ann", backend=Fake(["one two three"]), var="end", max_tokens=2)
    assert [text async for text in stream] == ["one", " two"]
    assert stream.result.meta("end").finish_reason == "length"


async def test_an_error_ends_a_stream() -> None:
    stream = agreet.astream("Ann", backend=Fake([OverloadedError("full")]))
    seen = []
    with pytest.raises(OverloadedError):
        async for text in stream:
            seen.append(text)
    assert seen == ["Dear Ann"]


@pytest.mark.parametrize("program", [greet, agreet], ids=["plain", "async"])
async def test_leaving_a_stream_cancels_its_run(program: Any) -> None:
    gate = Gate()
    backend = Fake(gate.answer)
    async with no_task_left(), program.astream("Ann", backend=backend) as stream:
        assert await anext(aiter(stream)) == "Dear Ann"
        await gate.until_arrived()
    assert backend.num_under_way == backend.num_sessions == 0


def test_leaving_a_plain_stream_cancels_its_run() -> None:
    gate = threading.Event()

    async def never(_: FakeCall) -> str:
        gate.set()
        await asyncio.Event().wait()
        return ""

    backend = Fake(never)
    with greet.stream("Ann", backend=backend) as stream:
        assert next(iter(stream)) == "Dear Ann"
    assert backend.num_under_way == backend.num_sessions == 0
