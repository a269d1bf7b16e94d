"""Calls as Kimi K2 writes them: in a section, with ids."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import ToolSpec
from tests.gateway.parsers.assembly import check_calls, check_cut, read_calls

SECTION, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
CALL = '<|tool_call_begin|>functions.get:0<|tool_call_argument_begin|>{"days": 1}<|tool_call_end|>'


def test_a_section_holds_calls() -> None:
    expected = ("get", {"days": 1})
    check_calls("kimi_k2", f"{SECTION}{CALL}{SECTION_END}", "", expected)
    two = f"So. {SECTION} {CALL}\n{CALL.replace('get:0', 'ping:1')} {SECTION_END} Done."
    check_calls("kimi_k2", two, "So. Done.", expected, ("ping", {"days": 1}))
    check_calls("kimi_k2", CALL, "", expected)


@pytest.mark.parametrize("identity", ["get:12", "functions.get", "get", "functions.get:0 ", "functions.get:"])
def test_an_id_need_not_have_all_its_parts(identity: str) -> None:
    check_calls("kimi_k2", SECTION + CALL.replace("functions.get:0", identity) + SECTION_END, "", ("get", {"days": 1}))


def test_a_name_may_begin_like_the_prefix() -> None:
    text = SECTION + CALL.replace("get", "functions") + CALL.replace("functions.get", "fun") + SECTION_END
    tools = [ToolSpec(name="functions"), ToolSpec(name="fun")]
    assert [name for name, _ in read_calls("kimi_k2", text, tools).calls] == ["functions", "fun"]


def test_nested_arguments_with_markers_in_strings_are_kept() -> None:
    arguments = '{"options": {"a": ["<|tool_call_end|>", {"\\"": "é}"}]}}'
    check_cut("kimi_k2", SECTION + CALL.replace('{"days": 1}', arguments) + SECTION_END, "", ("get", arguments))


def test_a_call_without_arguments_has_an_empty_object() -> None:
    check_calls("kimi_k2", SECTION + CALL.replace('{"days": 1}', "") + SECTION_END, "", ("get", {}))


@pytest.mark.parametrize(
    "text",
    [
        "<|tool",
        SECTION,
        f"{SECTION}{SECTION_END}",
        SECTION + CALL.replace("get", "pong"),
        CALL[:30],
        SECTION + CALL[:45],
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("kimi_k2", f"So {text}", f"So {text}")


def test_what_stands_behind_a_call_and_is_none_is_content() -> None:
    bad = CALL.replace("get", "pong")
    check_cut("kimi_k2", SECTION + CALL + bad + SECTION_END, bad + SECTION_END, ("get", '{"days": 1}'))
    check_cut("kimi_k2", SECTION + CALL.replace("{", "none{"), 'none{"days": 1}<|tool_call_end|>', ("get", ""))


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    check_cut("kimi_k2", SECTION + CALL[: CALL.index("1}")], "", ("get", '{"days": '))
    check_cut("kimi_k2", SECTION + CALL[:-4], "", ("get", '{"days": 1}'))
    check_cut("kimi_k2", SECTION + CALL + "\n", "", ("get", '{"days": 1}'))
    check_cut("kimi_k2", SECTION + CALL + SECTION_END[:15], "", ("get", '{"days": 1}'))
    check_cut("kimi_k2", SECTION + CALL + CALL[:24], CALL[:24], ("get", '{"days": 1}'))
