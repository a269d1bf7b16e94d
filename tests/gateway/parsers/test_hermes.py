"""Calls as Hermes and Qwen write them, and texts that look like them."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import TOOL_FORMATS
from tests.gateway.parsers.assembly import TOOLS, assemble, check_calls, check_cut

PING = '<tool_call>\n{"name": "ping", "arguments": {}}\n</tool_call>'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Seven.",
        "  \n",
        "a < b, <tool> and <tool_",
        "<tool_call",
        "<tool_call>",
        "<tool_call>\n",
        "Say <tool_call> to call.\n",
        "</tool_call> alone",
    ],
)
def test_text_without_a_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("hermes", text, text)


def test_text_around_calls_is_content_and_white_space_at_calls_is_not() -> None:
    check_calls("hermes", PING, "", ("ping", {}))
    check_calls("hermes", f"Let me see.\n\n{PING}\n{PING}\n", "Let me see.", ("ping", {}), ("ping", {}))
    check_calls("hermes", f"\n{PING}\n\nDone. ", "\nDone. ", ("ping", {}))
    check_calls("hermes", f"First.\n{PING}\n\nSecond.", "First.\nSecond.", ("ping", {}))


@pytest.mark.parametrize(
    "arguments",
    [
        '{"city": "Ulm", "options": {"a": {"b": [1, {"c": "}"}]}}}',
        r'{"city": "\"}\\", "tags": ["</tool_call>", "{\u00e9", "é😀"]}',
        '{ "city" : "U" ,\n "days":-1.5e3,"exact":true }',
        '{"city": "</tool_call>\\n<tool_call>{"}',
    ],
)
def test_arguments_are_given_on_as_the_model_wrote_them(arguments: str) -> None:
    text = f'<tool_call>\n{{"name": "get_weather", "arguments": {arguments}}}\n</tool_call>'
    check_cut("hermes", text, "", ("get_weather", arguments))


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ('{"arguments": {"days": 1}, "name": "get"}', '{"days": 1}'),
        ('{"name": "get", "parameters": {"days": 1}}', '{"days": 1}'),
        ('{"id": "7", "type": "function", "name": "get", "arguments": {"days": 1}, "more": [{}]}', '{"days": 1}'),
        ('{"name": "get", "arguments": "{\\"days\\": 1}"}', '{"days": 1}'),
        ('{"arguments": "{\\"days\\": 1}", "name": "get"}', '{"days": 1}'),
        ('{"name": "get"}', "{}"),
        ('{"name": "get", "arguments": null}', "{}"),
        ('{"name": "get", "arguments": "no object"}', '"no object"'),
        ('{"name": "get", "arguments": {"a": 1}, "parameters": {"b": 2}}', '{"a": 1}'),
        ('{"n\\u0061me": "g\\u0065t", "arguments": {}}', "{}"),
    ],
)
def test_every_shape_of_the_object_is_a_call(call: str, arguments: str) -> None:
    check_cut("hermes", f"<tool_call>{call}</tool_call>", "", ("get", arguments))


@pytest.mark.parametrize(
    "call",
    [
        '{"name": "unknown", "arguments": {}}',
        '{"name": 7, "arguments": {}}',
        '{"arguments": {"days": 1}}',
        '{"name" "get"}',
        '{"arguments": {]}, "name": "get"}',
        '["get"]',
        "get(days=1)",
        "{}",
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(call: str) -> None:
    text = f"So: <tool_call>\n{call}\n</tool_call> Good."
    check_cut("hermes", text, text)


def test_a_call_behind_what_is_none_is_found() -> None:
    check_calls("hermes", f"<tool_call>{PING}", "<tool_call>", ("ping", {}))
    check_calls(
        "hermes",
        f'<tool_call>{{"name": "no"}}</tool_call>\n{PING}',
        '<tool_call>{"name": "no"}</tool_call>',
        ("ping", {}),
    )


def test_a_call_that_is_cut_off_stays_as_far_as_it_came() -> None:
    text = '<tool_call>\n{"name": "get", "arguments": {"days": [1, "x'
    check_cut("hermes", text, "", ("get", '{"days": [1, "x'))
    check_cut("hermes", text[:29], "", ("get", ""))
    check_cut("hermes", text[:20], text[:20])
    check_cut("hermes", PING.removesuffix("call>"), "", ("ping", "{}"))
    check_cut("hermes", PING.removesuffix("\n</tool_call>"), "", ("ping", "{}"))
    check_cut("hermes", '<tool_call>{"arguments": {"days": 1', '<tool_call>{"arguments": {"days": 1')


def test_a_call_that_breaks_stays_as_far_as_it_came_and_the_rest_is_content() -> None:
    text = '<tool_call>{"name": "get", "arguments": {"days": 1]}</tool_call> So.'
    check_cut("hermes", text, "]}</tool_call> So.", ("get", '{"days": 1'))
    check_cut("hermes", f"{PING[:-12]}and {PING}", "and", ("ping", "{}"), ("ping", "{}"))


def test_deep_nesting_is_no_error() -> None:
    deep = '{"options": ' + "[" * 5000
    parser = TOOL_FORMATS["hermes"].make(TOOLS)
    text = f'<tool_call>{{"name": "get", "arguments": {deep}'
    assert assemble(parser, [text]).calls == [("get", deep)]
