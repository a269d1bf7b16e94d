"""The backend for tests of programs."""

from __future__ import annotations

import asyncio

import pytest
from pydantic import BaseModel

from bough.lang import Fake, FakeCall, LangError, State, gen, select
from tests.lang.programs import run


def two(s: State) -> None:
    s += "a " + gen("x", stop="!") + gen("y", max_tokens=1)


def test_answers_are_taken_in_order_or_by_the_variables_name() -> None:
    assert run(two, Fake(["one", "two"])).text() == "a onetwo"
    assert run(two, Fake({"y": "two", "x": ["one"]})).text() == "a onetwo"


def test_answers_may_be_a_function_async_or_not() -> None:
    async def late(call: FakeCall) -> str:
        await asyncio.sleep(0)
        return f"<{call.name}>"

    assert run(two, Fake(lambda call: f"<{call.name}>")).text() == run(two, Fake(late)).text() == "a <x><y>"


def test_answers_end_at_stop_strings_and_after_max_tokens() -> None:
    result = run(two, Fake({"x": "one! more", "y": "two three"}))
    assert (result["x"], result["y"]) == ("one", "two")
    assert (result.meta("x").finish_reason, result.meta("y").finish_reason) == ("stop", "length")


def test_without_a_script_answers_depend_on_the_prompt_only() -> None:
    assert run(two, Fake()).text() == run(two, Fake()).text()


def test_calls_are_kept_with_all_that_was_asked() -> None:
    backend = Fake(["one", "two"])
    run(two, backend)
    assert [(call.name, call.text, call.sampling.max_tokens) for call in backend.calls] == [
        ("x", "a ", 128),
        ("y", "a one", 1),
    ]


def test_an_answer_that_is_missing_is_named() -> None:
    with pytest.raises(LangError, match="all 1 answers are used up"):
        run(two, Fake(["one"]))
    with pytest.raises(LangError, match="all 0 answers for 'y' are used up"):
        run(two, Fake({"x": "one", "y": []}))
    with pytest.raises(LangError, match="no answer for 'y', there are some for: x"):
        run(two, Fake({"x": "one"}))


def test_the_answer_to_a_select_is_one_of_its_choices() -> None:
    def judge(s: State) -> None:
        s += select("x", ["yes", "no"])

    assert run(judge, Fake({"x": "no"}))["x"] == "no"
    with pytest.raises(LangError, match="'x' is to be 'perhaps', its choices are"):
        run(judge, Fake(["perhaps"]))


def test_without_a_script_answers_are_of_the_types_that_are_asked_for() -> None:
    class City(BaseModel):
        name: str

    def typed(s: State) -> None:
        s += gen("x", dtype=int) + gen("y", schema=City)

    result = run(typed, Fake())
    assert (result["x"], result["y"]) == (0, City(name="⟨name⟩"))
