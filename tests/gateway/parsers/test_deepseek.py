"""Calls as DeepSeek's models write them, with the arguments in a code fence or bare."""

# ruff: noqa: RUF001 -- the markers have such bars

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import ToolSpec
from tests.gateway.parsers.assembly import TOOLS, check_calls, check_cut, read_calls
from tests.gateway.parsers.renderings import deepseek_v3, deepseek_v31

SECTION, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
FENCED = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get\n```json\n{"days": 1}\n```<｜tool▁call▁end｜>'
BARE = '<｜tool▁call▁begin｜>get<｜tool▁sep｜>{"days": 1}<｜tool▁call▁end｜>'


@pytest.mark.parametrize("call", [FENCED, BARE])
def test_a_section_holds_calls(call: str) -> None:
    expected = ("get", {"days": 1})
    check_calls("deepseek_v3", f"{SECTION}{call}{SECTION_END}", "", expected)
    check_calls(
        "deepseek_v3", f"So.\n\n{SECTION}\n{call}\n{call}{SECTION_END}\nDone.", "So.\n\nDone.", expected, expected
    )
    check_calls("deepseek_v3", call, "", expected)


@pytest.mark.parametrize("render", [deepseek_v3, deepseek_v31])
def test_nested_arguments_with_fences_and_markers_in_strings_are_kept(render: object) -> None:
    arguments = {"city": '```<｜tool▁call▁end｜>"}\\', "options": {"a": {"b": [{}]}}}
    assert callable(render)
    check_calls(
        "deepseek_v3", render([("get_weather", arguments), ("ping", {})]), "", ("get_weather", arguments), ("ping", {})
    )


def test_a_call_without_arguments_has_an_empty_object() -> None:
    check_calls(
        "deepseek_v31",
        f"{SECTION}<｜tool▁call▁begin｜>ping<｜tool▁sep｜><｜tool▁call▁end｜>{SECTION_END}",
        "",
        ("ping", {}),
    )
    empty = FENCED.replace('{"days": 1}\n', "")
    check_calls("deepseek_v3", f"{SECTION}{empty}{SECTION_END}", "", ("get", {}))


def test_a_tool_may_be_called_function() -> None:
    tools = [*TOOLS, ToolSpec(name="function")]
    for text in (deepseek_v3([("function", {}), ("ping", {})]), deepseek_v31([("function", {}), ("ping", {})])):
        assert read_calls("deepseek_v3", text, tools).calls == [("function", "{}"), ("ping", "{}")]


@pytest.mark.parametrize(
    "text",
    [
        "<｜",
        "<｜tool▁outputs▁begin｜>",
        SECTION,
        f"{SECTION}get<｜tool▁sep｜>",
        f"{SECTION}{BARE.replace('get', 'pong')}{SECTION_END}",
        f"{SECTION}{FENCED.replace('get', 'pong')}{SECTION_END}",
        FENCED.replace("```json", "```"),
        BARE[:24],
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("deepseek_v3", f"So {text}", f"So {text}")


def test_what_stands_behind_a_call_and_is_none_is_content() -> None:
    bad = BARE.replace("get", "pong")
    check_cut("deepseek_v3", f"{SECTION}{BARE}{bad}{SECTION_END}", bad + SECTION_END, ("get", '{"days": 1}'))
    check_cut("deepseek_v3", f"{SECTION}{BARE.replace('1}', '1]')}", "]<｜tool▁call▁end｜>", ("get", '{"days": 1'))


@pytest.mark.parametrize("call", [FENCED, BARE])
def test_a_call_that_is_cut_off_stays_as_far_as_it_came(call: str) -> None:
    check_cut("deepseek_v3", SECTION + call[: call.index("1}")], "", ("get", '{"days": '))
    check_cut("deepseek_v3", SECTION + call[: call.index("{")], "", ("get", ""))
    check_cut("deepseek_v3", SECTION + call[:-3], "", ("get", '{"days": 1}'))
    check_cut("deepseek_v3", SECTION + call, "", ("get", '{"days": 1}'))
