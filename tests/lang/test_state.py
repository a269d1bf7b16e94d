"""States: text, variables, turns, and what can be read of them."""

from __future__ import annotations

import pytest

from bough.lang import (
    AsyncState,
    ExpressionError,
    Fake,
    LangError,
    MissingAwaitError,
    State,
    UnknownVariableError,
    assistant,
    function,
    gen,
    select,
    system,
    user,
    user_begin,
    user_end,
)
from tests.lang.programs import run


def test_text_and_answers_follow_one_another() -> None:
    def program(s: State) -> None:
        s += "Q: " + gen("question") + ["\nA: ", gen("answer"), "."]
        assert s["question"] == "why"
        assert s.text() == "Q: why\nA: because."

    backend = Fake({"question": "why", "answer": "because"})
    assert run(program, backend).text() == "Q: why\nA: because."
    assert [call.text for call in backend.calls] == ["Q: ", "Q: why\nA: "]


def test_a_variable_can_be_set_asked_for_and_made_anew() -> None:
    def program(s: State) -> None:
        assert "x" not in s
        s["x"] = 7
        assert "x" in s and s["x"] == 7
        s += gen("x")
        assert s["x"] == "first"
        s += gen("x")
        assert s["x"] == "second"

    assert run(program, Fake(["first", "second"]))["x"] == "second"


def test_an_unknown_variable_is_answered_with_those_there_are() -> None:
    def program(s: State) -> None:
        s += gen("answer")
        with pytest.raises(UnknownVariableError, match="'anser' is not there, known are: answer"):
            s["anser"]

    with pytest.raises(UnknownVariableError, match="known are: answer"):
        run(program)["anser"]


def test_a_chat_is_turns_of_which_the_last_may_be_begun() -> None:
    def program(s: State) -> None:
        s += system("Be brief.")
        with s.user():
            s += "Two and "
            s += "two?"
        s += assistant("It is " + gen("answer"))
        s += [user_begin(), "Sure?", user_end()]
        s += assistant(select("sure", ["yes", "no"]))

    backend = Fake({"answer": "four", "sure": "yes"})
    result = run(program, backend)
    turns = [(message["role"], message["content"]) for message in result.messages()]
    assert turns == [
        ("system", "Be brief."),
        ("user", "Two and two?"),
        ("assistant", "It is four"),
        ("user", "Sure?"),
        ("assistant", "yes"),
    ]
    first, second = backend.calls
    assert first.text == "It is " and [message.content for message in first.messages or ()] == turns_of(turns[:2])
    assert second.text == "" and [message.content for message in second.messages or ()] == turns_of(turns[:4])


def turns_of(turns: list[tuple[str, str]]) -> list[str]:
    return [content for _, content in turns]


@pytest.mark.parametrize(
    ("added", "message"),
    [
        (["text", user("x")], "cannot follow plain text"),
        ([user("x"), "text"], "outside of a turn"),
        ([user("x"), gen()], "outside of a turn"),
        ([user(gen())], "in a turn of user"),
        ([user(system("x"))], "within one of user"),
        ([user_end()], "cannot end outside of a turn"),
    ],
)
def test_what_cannot_stand_in_a_chat_is_refused_where_it_is_added(added: list[object], message: str) -> None:
    def program(s: State) -> None:
        with pytest.raises(ExpressionError, match=message):
            s += added  # type: ignore[arg-type]

    run(program)


def test_what_is_no_expression_is_refused_and_adds_nothing() -> None:
    def program(s: State) -> None:
        with pytest.raises(ExpressionError, match="got 7"):
            s += ["one", 7]  # type: ignore[list-item]

    assert run(program).text() == ""


def test_a_scope_makes_its_text_a_variable() -> None:
    def program(s: State) -> None:
        s += "before "
        with s.var_scope("all"):
            s += "in " + gen("x")
        s += " after"
        assert s["all"] == "in it"

    assert run(program, Fake(["it"]))["all"] == "in it"


def test_meta_tells_how_a_call_ended_and_what_it_took() -> None:
    def program(s: State) -> None:
        s += "one two " + gen("x", max_tokens=2, logprobs=0)
        s += select("y", ["yes", "no"])
        meta = s.meta("x")
        assert meta.finish_reason == "length"
        assert (meta.usage.prompt_tokens, meta.usage.completion_tokens) == (3, 2)
        assert [entry.token for entry in meta.logprobs[0]] == ["a", " b"]
        assert [(score.choice, score.score) for score in s.meta("y").scores] == [("no", 0.0), ("yes", -10.0)]
        s["z"] = 1
        with pytest.raises(LangError, match="z is not the result of one gen or select"):
            s.meta("z")

    run(program, Fake({"x": "a b c", "y": "no"}))


def test_several_continuations_are_a_list_and_leave_the_state_as_it_is() -> None:
    def program(s: State) -> None:
        s += "Say: " + gen("ways", n=3)
        s += gen("after")

    backend = Fake(lambda call: f"way {call.index}")
    result = run(program, backend)
    assert result["ways"] == ["way 0", "way 1", "way 2"]
    assert result.text() == "Say: way 0" and backend.calls[-1].text == "Say: "
    assert result.meta("ways").finish_reasons == ("stop", "stop", "stop")


def test_text_is_told_while_it_comes() -> None:
    def program(s: State) -> None:
        s += "Count: " + gen("x") + "!"
        assert list(s.text_iter("x")) == ["one", " two"]
        assert list(s.text_iter()) == ["Count: ", "one", " two", "!"]
        s["y"] = "whole"
        assert list(s.text_iter("y")) == ["whole"]
        s["z"] = 1
        with pytest.raises(LangError, match="z is no text but int"):
            list(s.text_iter("z"))

    run(program, Fake(["one two"]))


async def test_an_async_program_awaits_what_it_reads() -> None:
    @function
    async def program(s: AsyncState) -> str:
        s += "Count: " + gen("x")
        assert [text async for text in s.text_iter("x")] == ["one", " two"]
        assert await s.text() == "Count: one two"
        assert await s.messages() == []
        assert (await s.meta("x")).finish_reason == "stop"
        await s.sync()
        return f"<{await s['x']}>"

    assert (await program.arun(backend=Fake(["one two"]))).value == "<one two>"


async def test_a_forgotten_await_is_an_error_and_no_text() -> None:
    @function
    async def program(s: AsyncState) -> None:
        s += gen("x")
        for use in (lambda: f"{s['x']}", lambda: str(s["x"]), lambda: bool(s["x"]), lambda: s["x"] == "y"):
            with pytest.raises(MissingAwaitError, match=r'await s\["x"\]'):
                use()
        with pytest.raises(MissingAwaitError, match="await it first"):
            s += s["x"]  # type: ignore[arg-type]

    await program.arun(backend=Fake())


def test_a_state_goes_back_to_a_mark_and_forgets_the_text_since() -> None:
    def program(s: State) -> None:
        s += "Guess: "
        mark = s.mark()
        for number in (1, 2):
            s += gen(f"try{number}")
            if s[f"try{number}"] != "good":
                s.rollback(mark)

    backend = Fake(["bad", "good"])
    result = run(program, backend)
    assert result.text() == "Guess: good" and result["try1"] == "bad"
    assert [call.text for call in backend.calls] == ["Guess: ", "Guess: "]
