"""Calls as Mistral's models write them: a JSON list, or a name and arguments."""

from __future__ import annotations

import pytest

from tests.gateway.parsers.assembly import check_calls, check_cut

PING = '{"name": "ping", "arguments": {}}'
DAYS = '{"arguments": {"days": 1}, "name": "get"}'


def test_a_list_of_objects_is_calls() -> None:
    check_calls("mistral", f"[TOOL_CALLS][{PING}]", "", ("ping", {}))
    check_calls(
        "mistral", f"So.\n[TOOL_CALLS] [{PING} ,\n{DAYS}] Done.", "So.\nDone.", ("ping", {}), ("get", {"days": 1})
    )
    check_calls("mistral", f"[TOOL_CALLS]{PING}", "", ("ping", {}))


def test_a_name_and_arguments_are_a_call() -> None:
    check_calls("mistral", "[TOOL_CALLS]ping[ARGS]{}", "", ("ping", {}))
    check_calls(
        "mistral",
        'So. [TOOL_CALLS]get[ARGS]{"days": 1}[TOOL_CALLS]get_weather[ARGS]{"city": "[ARGS]}"}\n',
        "So.",
        ("get", {"days": 1}),
        ("get_weather", {"city": "[ARGS]}"}),
    )
    check_calls("mistral", '[TOOL_CALLS]get{"days": 1}', "", ("get", {"days": 1}))
    check_calls("mistral", "[TOOL_CALLS]ping[CALL_ID]a1B2c3D4e[ARGS]{}", "", ("ping", {}))


@pytest.mark.parametrize(
    "text",
    [
        "[TOOL",
        "[TOOLS] and [1, 2]",
        "[TOOL_CALLS]",
        "[TOOL_CALLS][]",
        "[TOOL_CALLS]pong[ARGS]{}",
        "[TOOL_CALLS]pingpong[ARGS]{}",
        "[TOOL_CALLS]ping",
        '[TOOL_CALLS][{"name": "pong", "arguments": {}}]',
        '[TOOL_CALLS][{"name"',
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("mistral", f"So {text}", f"So {text}")


def test_what_stands_behind_a_call_and_is_none_is_content() -> None:
    check_cut("mistral", f"[TOOL_CALLS][{PING}, and]", ", and]", ("ping", "{}"))
    check_cut("mistral", f"[TOOL_CALLS][{PING} and", "and", ("ping", "{}"))
    check_cut("mistral", "[TOOL_CALLS]ping[ARGS]none", "none", ("ping", ""))


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    check_cut("mistral", f"[TOOL_CALLS][{PING}", "", ("ping", "{}"))
    check_cut("mistral", '[TOOL_CALLS]get[ARGS]{"days": [1', "", ("get", '{"days": [1'))
    check_cut("mistral", "[TOOL_CALLS]get[ARGS]", "", ("get", ""))
    check_cut("mistral", "[TOOL_CALLS]get[CALL_ID]a1", "", ("get", ""))
