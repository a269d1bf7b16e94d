"""Calls as Llama 3 writes them: bare objects that an answer begins with, or objects behind a marker."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import TOOL_FORMATS
from tests.gateway.parsers.assembly import TOOLS, check_calls, check_cut

PING = '{"name": "ping", "parameters": {}}'
DAYS = '{"type": "function", "name": "get", "parameters": {"days": 1}}'


def test_objects_that_an_answer_begins_with_are_calls() -> None:
    check_calls("llama3", PING, "", ("ping", {}))
    check_calls("llama3", f"\n {DAYS}; {PING};{PING}", "", ("get", {"days": 1}), ("ping", {}), ("ping", {}))
    check_calls("llama3", f"{DAYS}\n{PING}\nDone.", "Done.", ("get", {"days": 1}), ("ping", {}))


def test_objects_behind_the_marker_are_calls_wherever_it_stands() -> None:
    check_calls("llama3", f"<|python_tag|>{PING}", "", ("ping", {}))
    check_calls("llama3", f"So.\n<|python_tag|>{DAYS}; {PING}", "So.", ("get", {"days": 1}), ("ping", {}))
    check_calls("llama3", f"<|python_tag|>{DAYS}; <|python_tag|>{PING}", "", ("get", {"days": 1}), ("ping", {}))


@pytest.mark.parametrize(
    "text",
    [
        "Plain.",
        " ",
        "{",
        '{"city": "Ulm", "name": "ping"}',
        '{"name": "Ada", "parameters": {}}',
        '{"parameters": {"days": 1}}',
        "{a: 1}; {b: 2}",
        f"An example: {PING}",
        "<|python",
        "<|python_tag|>print(1)",
        '<|python_tag|>{"name": "pong", "parameters": {}}',
        f"{PING[:-1]}]",
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    if text.startswith(PING[:-1]):
        check_cut("llama3", text, "]", ("ping", "{}"))
    else:
        check_cut("llama3", text, text)


def test_what_stands_behind_a_call_and_is_none_is_content() -> None:
    check_cut("llama3", f"{PING}; and so on", "; and so on", ("ping", "{}"))
    check_cut("llama3", f'{PING}; {{"name": "pong"}}', '; {"name": "pong"}', ("ping", "{}"))
    check_cut("llama3", f"{PING};", ";", ("ping", "{}"))


def test_an_answer_in_json_is_not_kept_back_once_a_key_shows_what_it_is() -> None:
    parser = TOOL_FORMATS["llama3"].make(TOOLS)
    assert parser.feed('{"title').content == ""
    assert parser.feed('": "A long').content == '{"title": "A long'


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    check_cut("llama3", DAYS[:-4], "", ("get", '{"days":'))
    check_cut("llama3", DAYS[:30], DAYS[:30])
