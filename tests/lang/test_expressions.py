"""Expressions: what they are made of, and what is refused where it is written."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, Field

from bough.lang import (
    ChoicesMethod,
    ExpressionError,
    Fake,
    OutputError,
    State,
    UnsupportedError,
    gen,
    image,
    select,
    token_length_normalized,
)
from bough.lang.expressions import Gen, Select, Sequenced, Text
from bough.lang.output import Constraint
from bough.lang.sampling import Sampling
from tests.lang.programs import run


class City(BaseModel):
    name: str
    people: int = Field(ge=1)


def test_strings_and_expressions_add_up() -> None:
    call = gen("x")
    assert "a" + call + ["b", "", call] == Sequenced((Text("a"), call, Text("b"), call))


def test_gen_takes_options_and_one_constraint() -> None:
    call = gen("x", max_tokens=5, stop="end", stop_token_ids=[7], regex="a+")
    assert isinstance(call, Gen)
    assert call.sampling == Sampling(max_tokens=5, stop=("end",), stop_token_ids=(7,))
    assert call.constraint == Constraint(kind="regex", source="a+")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regex": "a", "ebnf": "b"}, "regex and ebnf are both given, accepted is one constraint"),
        ({"schema": City, "choices": ["a"]}, "schema and choices are both given"),
        ({"max_token": 5}, "gen: max_token is no option; did you mean max_tokens?"),
        ({"dtype": list}, "dtype: got <class 'list'>, accepted are int, float, bool and str"),
        ({"schema": int}, "schema: got <class 'int'>, accepted is a class of pydantic's BaseModel"),
        ({"choices_method": token_length_normalized}, "choices_method is given without choices"),
        ({"choices": ["a", "b"], "temperature": 1.0}, "temperature means nothing with choices"),
    ],
)
def test_what_gen_cannot_take_is_refused_where_it_is_written(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ExpressionError) as caught:
        gen("x", **arguments)
    assert message in str(caught.value)


def test_gen_with_choices_is_a_select() -> None:
    method = ChoicesMethod.GREEDY_TOKEN_SELECTION
    assert gen("x", choices=["a", "b"], choices_method=method) == Select(name="x", choices=("a", "b"), method=method)
    assert gen("x", choices=["a", "b"]) == select("x", ["a", "b"], choices_method="token_length_normalized")


@pytest.mark.parametrize("choices", [[], ["a", "a"], [""], [1, 2]])
def test_choices_are_texts_no_two_alike(choices: list[Any]) -> None:
    with pytest.raises(ExpressionError, match="choices: got"):
        select("x", choices)
    with pytest.raises(ExpressionError, match="choices_method: got 'best', accepted are token_length_normalized, gre"):
        select("x", ["a", "b"], choices_method="best")


def test_images_are_refused() -> None:
    with pytest.raises(UnsupportedError, match="models see no images yet"):
        image("cat.png")


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        (int, " -12", -12),
        (float, "2.5", 2.5),
        (bool, "False", False),
        (str, '"a b"', "a b"),
    ],
)
def test_a_variable_is_of_the_type_that_was_asked_for(dtype: Any, text: str, value: object) -> None:
    def program(s: State) -> None:
        s += gen("x", dtype=dtype)

    result = run(program, Fake([text]))
    assert result["x"] == value and type(result["x"]) is dtype
    assert result.text() == text


@pytest.mark.parametrize("dtype", [int, float, bool, str])
def test_text_that_is_none_of_the_type_is_an_error_that_shows_it(dtype: Any) -> None:
    def program(s: State) -> None:
        s += gen("x", dtype=dtype, max_tokens=1)

    with pytest.raises(OutputError, match=f"{dtype.__name__} was asked for: .* ended with 'length'") as caught:
        run(program, Fake(["Tru e"]))
    assert caught.value.text == "Tru"


def test_a_schema_gives_an_instance_and_one_that_does_not_hold_is_an_error() -> None:
    def program(s: State) -> None:
        s += gen("x", schema=City)

    backend = Fake(['{"name": "Ulm", "people": 2}', '{"name": "Ulm", "people": 0}'])
    assert run(program, backend)["x"] == City(name="Ulm", people=2)
    assert backend.calls[0].constraint is not None and '"people"' in backend.calls[0].constraint.source
    with pytest.raises(OutputError, match="City was asked for"):
        run(program, backend)


def test_several_continuations_are_all_of_the_type() -> None:
    def program(s: State) -> None:
        s += gen("x", dtype=int, n=2)

    assert run(program, Fake(["1", "2"]))["x"] == [1, 2]
