"""Messages of gpt-oss: thoughts, answers, and calls that go on unchanged."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import REASONING_FORMATS
from tests.gateway.parsers.assembly import read_thoughts

CALL = '<|channel|>commentary to=functions.get <|constrain|>json<|message|>{"days": 1}<|call|>'
THOUGHTS = "<|channel|>analysis<|message|>Hm.<|end|>"
FINAL = "<|channel|>final<|message|>Seven.<|return|>"
ROLE = "<|start|>assistant"


def check(text: str, reasoning: str, content: str, *, is_open: bool = False) -> None:
    message = read_thoughts("gpt_oss", text, is_open=is_open)
    assert (message.reasoning, message.content) == (reasoning, content)


def test_analysis_is_thoughts_and_final_is_the_answer() -> None:
    check(THOUGHTS + ROLE + FINAL, "Hm.", "Seven.")
    check((THOUGHTS + ROLE + FINAL).removesuffix("<|return|>"), "Hm.", "Seven.")
    check(FINAL, "", "Seven.")
    check(FINAL.replace("final", "final <|constrain|>json").replace("Seven.", "{}"), "", "{}")
    check("Plain < text <|", "", "Plain < text <|")


def test_commentary_for_the_user_is_content() -> None:
    check("<|channel|>commentary<|message|>I look.<|end|>" + ROLE + FINAL, "", "I look.\nSeven.")


def test_messages_of_a_kind_are_joined_by_line_breaks() -> None:
    check(THOUGHTS + ROLE + THOUGHTS + ROLE + FINAL, "Hm.\nHm.", "Seven.")


@pytest.mark.parametrize(
    "call",
    [
        CALL,
        CALL.removesuffix("<|call|>"),
        ROLE + CALL,
        f"{ROLE} to=functions.get<|channel|>commentary json<|message|>{{}}<|call|>",
        CALL.replace("commentary to=functions.get", "analysis to=python"),
    ],
)
def test_a_call_goes_on_unchanged(call: str) -> None:
    check(call, "", call)
    check(THOUGHTS + call, "Hm.", call)


def test_a_recipient_may_be_the_first_thing_that_is_said() -> None:
    call = " to=functions.get<|channel|>commentary json<|message|>{}<|call|>"
    check(call, "", call)
    check(" to", "", " to")
    check("to=everyone", "", "to=everyone")


def test_a_text_whose_prompt_opened_the_thoughts_begins_in_them() -> None:
    check("Hm.<|end|>" + ROLE + FINAL, "Hm.", "Seven.", is_open=True)
    check("Hm.<|end|>" + ROLE + CALL, "Hm.", ROLE + CALL, is_open=True)
    check("Hm. <|en", "Hm. <|en", "", is_open=True)


def test_a_message_without_its_end_ends_where_the_next_begins() -> None:
    check(THOUGHTS.removesuffix("<|end|>") + ROLE + FINAL, "Hm.", "Seven.")
    check(THOUGHTS.removesuffix("<|end|>") + FINAL, "Hm.", "Seven.")


def test_a_header_that_is_none_is_text() -> None:
    check("<|channel|>final", "", "<|channel|>final")
    long = "<|channel|>" + "x" * 600
    check(long + "<|message|>y", "", long + "<|message|>y")


def test_text_is_said_while_it_comes() -> None:
    parser = REASONING_FORMATS["gpt_oss"].make(False)
    assert parser.feed("<|channel|>analysis<|message|>Hm ").reasoning == "Hm "
    assert parser.feed("<|e").reasoning == ""
    assert parser.feed("x").reasoning == "<|ex"
