"""Calls as GLM writes them: a name and pairs of a key and a text, typed by the tool's schema."""

from __future__ import annotations

import pytest

from tests.gateway.parsers.assembly import check_calls, check_cut

PING = "<tool_call>ping\n</tool_call>"


def call(*pairs: tuple[str, str], name: str = "get_weather", line: str = "\n") -> str:
    inner = "".join(f"<arg_key>{key}</arg_key>{line}<arg_value>{value}</arg_value>{line}" for key, value in pairs)
    return f"<tool_call>{name}{line}{inner}</tool_call>"


@pytest.mark.parametrize("line", ["\n", ""])
def test_values_have_the_types_of_the_schema(line: str) -> None:
    text = call(("city", " 12\n"), ("days", "3"), ("options", '{"a": [1]}'), ("exact", "false"), line=line)
    expected = {"city": " 12\n", "days": 3, "options": {"a": [1]}, "exact": False}
    check_calls("glm45", f"\nHm.{text}", "\nHm.", ("get_weather", expected))


@pytest.mark.parametrize("city", ["", '"quoted" \\ {', "é😀", "</arg_val", "<arg_key>", "</tool_call>"])
def test_a_string_is_kept_to_the_letter(city: str) -> None:
    check_calls("glm45", call(("city", city)), "", ("get_weather", {"city": city}))


def test_text_around_calls_is_content() -> None:
    check_calls("glm45", f"One. {PING}\n{PING} Two.", "One. Two.", ("ping", {}), ("ping", {}))
    check_calls("glm45", "<tool_call>ping</tool_call>", "", ("ping", {}))
    check_calls("glm45", "<tool_call>\n  ping  </tool_call>", "", ("ping", {}))


@pytest.mark.parametrize(
    "text", ["<tool", "<tool_call>", "<tool_call>pi", "<tool_call>ping", "<tool_call>ping pong", call(name="pong")]
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("glm45", f"So {text}", f"So {text}")


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    whole = call(("city", "Ulm"), ("days", "3"))
    check_cut("glm45", whole[: whole.index("lm<")], "", ("get_weather", '{"city": "U'))
    check_cut("glm45", whole[: whole.index("days")], "", ("get_weather", '{"city": "Ulm"'))
    check_cut("glm45", whole[: whole.index("3")], "", ("get_weather", '{"city": "Ulm"'))
    check_cut("glm45", whole[: whole.index("</tool")], "", ("get_weather", '{"city": "Ulm", "days": 3'))


def test_a_call_that_breaks_stays_as_far_as_it_came_and_the_rest_is_content() -> None:
    text = call(("city", "Ulm"), ("days", "3")).replace("</arg_key>\n<arg_value>3", "</arg_key>: 3")
    check_cut("glm45", text, ": 3</arg_value>\n</tool_call>", ("get_weather", '{"city": "Ulm"'))
