"""Calls in Python: a list of them, with literals for arguments."""

from __future__ import annotations

import json

import pytest

from bough.gateway.parsers.pythonic import PythonicParser, keyword_arguments
from tests.gateway.parsers.assembly import TOOLS, check_calls, check_cut


def test_a_list_of_calls_is_calls() -> None:
    check_calls("pythonic", "[ping()]", "", ("ping", {}))
    check_calls(
        "pythonic",
        '[get(days=1), get_weather(city="Ulm"),\n ping()]',
        "",
        ("get", {"days": 1}),
        ("get_weather", {"city": "Ulm"}),
        ("ping", {}),
    )
    check_calls("pythonic", "So.\n[ping()]\nDone.", "So.\nDone.", ("ping", {}))


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ('"a, b=1) ]"', "a, b=1) ]"),
        ("'it\\'s \"x\"'", 'it\'s "x"'),
        ('"""two "quotes" ""\nand lines"""', 'two "quotes" ""\nand lines'),
        ("'''it's )'''", "it's )"),
        ("''", ""),
        ("'' 'x'", "x"),
        ('"é😀\\u00e9\\d"', "é😀é\\d"),
        ("[1, -2.5, [True, False, None], (1,)]", [1, -2.5, [True, False, None], [1]]),
        ("{'a': {'b': [1, {}]}, \"}\": ')'}", {"a": {"b": [1, {}]}, "}": ")"}),
        ("true", True),
        ("null", None),
    ],
)
def test_literals_become_json(source: str, value: object) -> None:
    check_calls("pythonic", f"[get(a={source}, b=1)]", "", ("get", {"a": value, "b": 1}))


@pytest.mark.parametrize(
    ("source", "arguments"),
    [
        ('from="x", to="y"', {"from": "x", "to": "y"}),
        ('a=1,\n  class = [1, 2], b={"if": 3}', {"a": 1, "class": [1, 2], "b": {"if": 3}}),
        ("from='a, class=2', in='x\u2028', None=1", {"from": "a, class=2", "in": "x\u2028", "None": 1}),
        ("in='''x\n, or=3'''", {"in": "x\n, or=3"}),
    ],
)
def test_arguments_may_be_called_like_words_of_python(source: str, arguments: dict[str, object]) -> None:
    check_calls("pythonic", f"[get({source})]", "", ("get", arguments))


@pytest.mark.parametrize(
    "text",
    [
        "[ping(a=(from=1))]",
        "[ping(a=[1, in=2])]",
        "[ping(from=from)]",
        "[1, 2, 3]",
        "[pong()]",
        "ping()",
        "[ping]",
        "[pin",
        "[ping(",
        "[ping(a=1",
        "[ping(1)]",
        "[ping(a=b)]",
        "[ping(a=open('x'))]",
        "[ping(a=1 + 1)]",
        "[ping(**{'a': 1})]",
        "[ping(a=f'{1}')]",
        "[ping(a={1: 2})]",
        "[ping(a=b'x')]",
        "[ping(a=1e999)]",
        "[ping(a='x)]",
        "[ping(a=[1)]",
        "[ping(a=1 b=2)]",
        "[ping(a=\0)]",
        "[ping(a=-'x')]",
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("pythonic", f"So {text}", f"So {text}")


def test_brackets_within_what_is_no_call_are_not_read_anew() -> None:
    nested = "[ping(" * 20000
    parser = PythonicParser(TOOLS)
    assert parser.feed(nested).content + parser.finish().content == nested
    check_cut("pythonic", "[ping([ping()]) [ping()]", "[ping([ping()])", ("ping", "{}"))


def test_what_stands_behind_a_call_and_is_none_is_content() -> None:
    check_cut("pythonic", "[ping(), pong()]", ", pong()]", ("ping", "{}"))
    check_cut("pythonic", "[ping(), get(x)] So", ", get(x)] So", ("ping", "{}"))
    check_cut("pythonic", "[ping() + 1]", "+ 1]", ("ping", "{}"))


def test_a_list_that_is_cut_off_keeps_the_calls_that_were_whole() -> None:
    check_cut("pythonic", "[get(days=1), ping(", ", ping(", ("get", '{"days": 1}'))
    check_cut("pythonic", "[get(days=1)", "", ("get", '{"days": 1}'))


@pytest.mark.parametrize("source", ["a=" + "[" * 5000 + "]" * 5000, "a=" + "-" * 50000 + "1", "a=" + "9" * 5000])
def test_what_python_has_no_room_for_is_no_call(source: str) -> None:
    assert keyword_arguments(source) is None


def test_half_a_surrogate_pair_can_be_written_as_utf_8() -> None:
    arguments = keyword_arguments("a='\\ud800é'")
    assert arguments is not None and arguments.encode()
    assert json.loads(arguments) == {"a": "\ud800é"}
