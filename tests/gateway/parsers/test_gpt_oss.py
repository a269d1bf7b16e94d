"""Calls as gpt-oss writes them: messages for a function."""

from __future__ import annotations

import pytest

from tests.gateway.parsers.assembly import check_calls, check_cut

CALL = '<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"days": 1}<|call|>'
BEGINNING = ' to=functions.get<|channel|>commentary json<|message|>{"days": 1}'


@pytest.mark.parametrize(
    "text",
    [
        CALL,
        CALL.removesuffix("<|call|>"),
        CALL.replace(" <|constrain|>json", ""),
        CALL.replace(" <|constrain|>", "<|constrain|>"),
        CALL.replace("commentary", "analysis"),
        f"<|start|>assistant{CALL}",
        f"<|start|>assistant{BEGINNING}<|call|>",
        BEGINNING,
        BEGINNING.lstrip(),
    ],
)
def test_every_shape_of_the_header_is_a_call(text: str) -> None:
    check_calls("gpt_oss", text, "", ("get", {"days": 1}))


def test_text_around_calls_is_content() -> None:
    second = CALL.replace("get", "ping")
    text = f"So.\n{CALL}<|start|>assistant{second} Done."
    check_calls("gpt_oss", text, "So.\nDone.", ("get", {"days": 1}), ("ping", {"days": 1}))


def test_nested_arguments_with_markers_in_strings_are_kept() -> None:
    arguments = '{"options": {"a": ["<|call|>", {"\\"": "é}"}]}}'
    check_cut("gpt_oss", CALL.replace('{"days": 1}', arguments), "", ("get", arguments))
    check_cut("gpt_oss", CALL.replace('{"days": 1}', ""), "", ("get", "{}"))


@pytest.mark.parametrize(
    "text",
    [
        "to be or not to=functions.get",
        "<|chan",
        "<|channel|>",
        CALL.replace("get", "pong"),
        CALL.replace("functions.get", "python"),
        CALL.replace("functions.get", "get"),
        CALL[:50],
        "<|channel|>final<|message|>Seven.",
        "<|start|>assistant",
        "to=functions.pong<|channel|>commentary<|message|>{}",
        "<|channel|>" + "x" * 600 + " to=functions.get<|message|>{}",
    ],
)
def test_what_is_no_call_is_the_answer_word_for_word(text: str) -> None:
    check_cut("gpt_oss", text, text)


def test_a_call_that_is_cut_off_or_breaks_stays_as_far_as_it_came() -> None:
    check_cut("gpt_oss", CALL[: CALL.index("1}")], "", ("get", '{"days": '))
    check_cut("gpt_oss", CALL[:-3], "", ("get", '{"days": 1}'))
    check_cut("gpt_oss", CALL.replace("1}", "1]"), "]<|call|>", ("get", '{"days": 1'))
    check_cut("gpt_oss", CALL.replace("{", "run {"), 'run {"days": 1}<|call|>', ("get", ""))
