"""Calls as Qwen3-Coder writes them: elements whose texts are typed by the tool's schema."""

from __future__ import annotations

import pytest

from tests.gateway.parsers.assembly import check_calls, check_cut

PING = "<tool_call>\n<function=ping>\n</function>\n</tool_call>"


def call(*pairs: tuple[str, str], name: str = "get_weather") -> str:
    inner = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in pairs)
    return f"<tool_call>\n<function={name}>\n{inner}</function>\n</tool_call>"


def test_values_have_the_types_of_the_schema() -> None:
    text = call(
        ("city", "12"), ("days", "3"), ("least", "-1.5"), ("exact", "True"), ("tags", '["a"]'), ("unit", "null")
    )
    expected = {"city": "12", "days": 3, "least": -1.5, "exact": True, "tags": ["a"], "unit": None}
    check_calls("qwen3_coder", f"Hm.\n{text}", "Hm.", ("get_weather", expected))


@pytest.mark.parametrize(
    "city",
    [
        "",
        "\n",
        " a\n\n b ",
        'if (a < b && c > "d") {\n\treturn "\\n";\n}\n',
        "é😀\u2028",
        "</param",
        "<parameter=x>",
        "</function>",
    ],
)
def test_a_string_is_kept_to_the_letter(city: str) -> None:
    check_calls("qwen3_coder", call(("city", city), ("days", "1")), "", ("get_weather", {"city": city, "days": 1}))


def test_a_value_need_not_have_lines_of_its_own() -> None:
    text = call(("city", "Ulm"), ("days", "1")).replace("\n", "")
    check_calls("qwen3_coder", text, "", ("get_weather", {"city": "Ulm", "days": 1}))
    check_calls("qwen3_coder", text.replace("Ulm", ""), "", ("get_weather", {"city": "", "days": 1}))


def test_markers_that_models_leave_out_are_not_missed() -> None:
    bare = PING.removeprefix("<tool_call>\n")
    check_calls("qwen3_coder", bare, "", ("ping", {}))
    check_calls("qwen3_coder", bare.removesuffix("\n</tool_call>") + " So.", "So.", ("ping", {}))
    check_calls("qwen3_coder", PING.replace("</function>\n", "") + PING, "", ("ping", {}), ("ping", {}))


def test_text_around_calls_is_content() -> None:
    check_calls("qwen3_coder", f"One.\n{PING}\n{PING}\nTwo.", "One.\nTwo.", ("ping", {}), ("ping", {}))


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>\nping",
        "<tool",
        "<function",
        "<function=get_time>",
        call(name="get_time"),
        "<tool_call>\n<function=pi",
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("qwen3_coder", f"So {text}", f"So {text}")


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    whole = call(("city", "Ulm"), ("days", "3"))
    check_cut("qwen3_coder", whole[: whole.index("lm\n")], "", ("get_weather", '{"city": "U'))
    check_cut("qwen3_coder", whole[: whole.index("</para") + 4], "", ("get_weather", '{"city": "Ulm'))
    check_cut("qwen3_coder", whole[: whole.index("3")], "", ("get_weather", '{"city": "Ulm"'))
    check_cut("qwen3_coder", whole[: whole.index("</func")], "", ("get_weather", '{"city": "Ulm", "days": 3'))
    check_cut("qwen3_coder", whole[: whole.index("<para")], "", ("get_weather", ""))


def test_a_call_that_breaks_stays_as_far_as_it_came_and_the_rest_is_content() -> None:
    text = call(("city", "Ulm")).replace("</function>", "What?</function>")
    check_cut("qwen3_coder", text, "What?</function>\n</tool_call>", ("get_weather", '{"city": "Ulm"'))
