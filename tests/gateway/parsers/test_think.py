"""Thoughts between `<think>` and `</think>`, and what differs between families."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.registry import REASONING_FORMATS
from tests.gateway.parsers.assembly import read_thoughts

FAMILIES = ["qwen3", "deepseek_r1", "deepseek_v3", "kimi", "glm45"]
MARKED_ONLY = sorted(set(FAMILIES) - {"deepseek_r1"})


def check(name: str, text: str, reasoning: str, content: str, *, is_open: bool = False) -> None:
    message = read_thoughts(name, text, is_open=is_open)
    assert (message.reasoning, message.content) == (reasoning, content)


@pytest.mark.parametrize("name", FAMILIES)
def test_thoughts_come_before_the_answer(name: str) -> None:
    check(name, "<think>\nHm.\n</think>\n\nSeven.\n", "Hm.\n", "Seven.\n")
    check(name, "\n <think>Hm, 1 < 2 </thin</think>Seven.", "Hm, 1 < 2 </thin", "Seven.")
    check(name, "<think>\n\n</think>\n\n Seven.", "\n", " Seven.")
    check(name, "<think></think>", "", "")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_text_whose_prompt_opened_the_thoughts_begins_in_them(name: str) -> None:
    check(name, "Hm.</think>\nSeven.", "Hm.", "Seven.", is_open=True)
    check(name, "\nHm.\n\n</think>Seven.", "Hm.\n\n", "Seven.", is_open=True)
    check(name, "<think>\nHm.</think>Seven.", "Hm.", "Seven.", is_open=True)
    check(name, "Only thoughts", "Only thoughts", "", is_open=True)


@pytest.mark.parametrize("name", FAMILIES)
def test_thoughts_that_are_cut_off_stay_thoughts(name: str) -> None:
    check(name, "<think>\nHm. </thi", "Hm. </thi", "")
    check(name, "<think>", "", "")
    check(name, "<think>Hm.</think>\n", "Hm.", "")


@pytest.mark.parametrize("name", MARKED_ONLY)
@pytest.mark.parametrize(
    "text", ["Seven.", " \nSeven.", "<thi", "<thinker>", "Hm.</think>Seven.", "A <think> b </think>", "", " "]
)
def test_without_a_marker_at_the_beginning_all_is_the_answer(name: str, text: str) -> None:
    check(name, text, "", text)


def test_a_text_of_deepseek_r1_always_begins_in_the_thoughts() -> None:
    check("deepseek_r1", "Hm.</think>\n\nSeven.", "Hm.", "Seven.")
    check("deepseek_r1", "Hm.", "Hm.", "")


@pytest.mark.parametrize("name", FAMILIES)
def test_a_marker_in_the_answer_is_text(name: str) -> None:
    check(name, "<think>a</think>b <think>c</think> d", "a", "b <think>c</think> d")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("glm45", "<tool_call>ping</tool_call>"),
        ("kimi", "<|tool_calls_section_begin|><|tool_call_begin|>functions.ping:0"),
        ("kimi", "<|tool_call_begin|>functions.ping:0"),
    ],
)
def test_a_call_ends_thoughts_that_the_model_has_not_closed(name: str, call: str) -> None:
    check(name, f"<think>Hm <tool\n{call}", "Hm <tool\n", call)
    check(name, f"Hm.{call}</think>", "Hm.", f"{call}</think>", is_open=True)


def test_other_models_may_write_about_calls_in_their_thoughts() -> None:
    check("qwen3", "<think>A <tool_call> is due.</think>So.", "A <tool_call> is due.", "So.")


def test_only_what_may_be_a_marker_is_kept_back() -> None:
    parser = REASONING_FORMATS["qwen3"].make(False)
    assert parser.feed("<think>Hm <").reasoning == "Hm "
    assert parser.feed("b").reasoning == "<b"
    delta = parser.feed(" </think>\nSe")
    assert (delta.reasoning, delta.content) == (" ", "Se")
    assert parser.feed("ven <").content == "ven <"
