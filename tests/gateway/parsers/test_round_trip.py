"""Generated messages come back as they were written, however their text is cut."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.gateway.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from bough.gateway.parsers.scanner import WHITE_SPACE
from tests.gateway.parsers.assembly import TOOLS, assemble
from tests.gateway.parsers.renderings import RENDERINGS, Call

PIECES = [
    "Hello",
    "é",
    "😀",
    " ",
    "\n",
    "<",
    "<tool",
    "<|",
    "[",
    "[TOOL",
    "{",
    "}",
    '"',
    "\\",
    "(",
    "]",
    ":",
    "</think",
    "a",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)
"""Text with beginnings of markers, and with no marker."""

STRINGS = st.one_of(TEXTS, st.text(st.characters(exclude_categories=["Cs"]), max_size=8))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), STRINGS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(STRINGS, inner, max_size=3)),
    max_leaves=6,
)
WEATHER_ARGUMENTS = st.fixed_dictionaries(
    {"city": STRINGS},
    optional={
        "days": st.integers(),
        "least": st.floats(allow_nan=False, allow_infinity=False),
        "exact": st.booleans(),
        "tags": st.lists(STRINGS, max_size=3),
        "options": st.dictionaries(STRINGS, VALUES, max_size=3),
    },
)
CALLS: st.SearchStrategy[Call] = st.one_of(
    st.tuples(st.just("get_weather"), WEATHER_ARGUMENTS),
    st.tuples(st.just("get"), st.fixed_dictionaries({}, optional={"days": st.integers()})),
    st.tuples(st.just("ping"), st.just({})),
)
CUTS = st.lists(st.integers(0, 400), max_size=12)

SOUP = [
    *PIECES,
    *["<tool_call>", "</tool_call>", "<function=", "get", "get_weather", "ping", ">", "<parameter=", "</parameter>"],
    *["</function>", "<|python_tag|>", '{"name": ', '"ping"', '"arguments": ', '"parameters": ', ", ", ";", "{}"],
    *["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "[ping(", ")"],
    *["<|tool_calls_section_begin|>", "<|tool_call_begin|>", "functions.", ":0", "<|tool_call_argument_begin|>"],
    *["<|tool_call_end|>", "<|channel|>", "<|start|>", "commentary", " to=functions.", "<|message|>", "<|call|>"],
    *["<\uff5ctool▁calls▁begin\uff5c>", "<\uff5ctool▁call▁begin\uff5c>", "function", "<\uff5ctool▁sep\uff5c>"],
    *[
        "```json",
        "```",
        "<\uff5ctool▁call▁end\uff5c>",
        "<\uff5ctool▁calls▁end\uff5c>",
        "'",
        "'''",
        "days",
        "=",
        "1",
        "assistant",
    ],
    *["<think>", "</think>", "analysis", "final", "<|end|>", "<|return|>"],
]


def cut(text: str, places: Sequence[int]) -> list[str]:
    bounds = [0, *sorted(place for place in places if place < len(text)), len(text)]
    return [text[start:end] for start, end in itertools.pairwise(bounds)]


@pytest.mark.parametrize("rendering", RENDERINGS)
@settings(max_examples=40, deadline=None)
@given(before=TEXTS, calls=st.lists(CALLS, min_size=1, max_size=3), after=TEXTS, places=CUTS)
def test_a_message_comes_back_as_it_was_written(
    rendering: str, before: str, calls: list[Call], after: str, places: list[int]
) -> None:
    name, render = RENDERINGS[rendering]
    before = "" if rendering == "llama3" else before  # only what an answer begins with is a bare call
    message = assemble(TOOL_FORMATS[name].make(TOOLS), cut(before + render(calls) + after, places))
    behind = after.lstrip(WHITE_SPACE)
    assert message.content == (before + behind if behind else before.rstrip(WHITE_SPACE))
    assert [(tool, json.loads(arguments)) for tool, arguments in message.calls] == calls


@pytest.mark.parametrize("rendering", RENDERINGS)
@settings(max_examples=60, deadline=None)
@given(
    calls=st.lists(CALLS, min_size=1, max_size=2),
    place=st.integers(0, 120),
    length=st.integers(0, 60),
    put_in=st.lists(st.sampled_from(SOUP), max_size=3).map("".join),
    places=CUTS,
)
def test_how_a_damaged_message_is_cut_makes_no_difference(
    rendering: str, calls: list[Call], place: int, length: int, put_in: str, places: list[int]
) -> None:
    name, render = RENDERINGS[rendering]
    make = TOOL_FORMATS[name].make
    text = render(calls)
    text = text[:place] + put_in + text[place + length :]
    whole = assemble(make(TOOLS), [text])
    assert assemble(make(TOOLS), cut(text, places)) == whole
    assert assemble(make(TOOLS), text) == whole


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
@settings(max_examples=100, deadline=None)
@given(text=st.lists(st.sampled_from(SOUP), max_size=14).map("".join), places=CUTS)
def test_how_any_text_is_cut_makes_no_difference_to_calls(name: str, text: str, places: list[int]) -> None:
    make = TOOL_FORMATS[name].make
    whole = assemble(make(TOOLS), [text])
    assert assemble(make(TOOLS), cut(text, places)) == whole
    assert assemble(make(TOOLS), text) == whole
    if not whole.calls:
        assert whole.content == text, "what holds no call is the answer, word for word"


@pytest.mark.parametrize("name", sorted(REASONING_FORMATS))
@settings(max_examples=60, deadline=None)
@given(text=st.lists(st.sampled_from(SOUP), max_size=14).map("".join), places=CUTS, is_open=st.booleans())
def test_how_any_text_is_cut_makes_no_difference_to_thoughts(
    name: str, text: str, places: list[int], is_open: bool
) -> None:
    make = REASONING_FORMATS[name].make
    whole = assemble(make(is_open), [text])
    assert assemble(make(is_open), cut(text, places)) == whole
    assert assemble(make(is_open), text) == whole


@pytest.mark.parametrize("name", ["qwen3", "deepseek_r1", "deepseek_v3", "kimi", "glm45"])
@settings(max_examples=30, deadline=None)
@given(thoughts=TEXTS, answer=TEXTS.map(str.lstrip), is_open=st.booleans(), places=CUTS)
def test_thoughts_and_answer_come_back_as_they_were_written(
    name: str, thoughts: str, answer: str, is_open: bool, places: list[int]
) -> None:
    opening = "" if is_open else "<think>"
    text = f"{opening}\n{thoughts}</think>\n\n{answer}"
    message = assemble(REASONING_FORMATS[name].make(is_open), cut(text, places))
    assert (message.reasoning, message.content) == (thoughts, answer)


@settings(max_examples=60, deadline=None)
@given(thoughts=TEXTS, answer=TEXTS, calls=st.lists(CALLS, min_size=1, max_size=2), places=CUTS, more=CUTS)
def test_calls_of_gpt_oss_go_through_both_parsers(
    thoughts: str, answer: str, calls: list[Call], places: list[int], more: list[int]
) -> None:
    rendered: Any = RENDERINGS["gpt_oss"][1](calls)
    text = f"<|channel|>analysis<|message|>{thoughts}<|end|><|start|>assistant"
    text += f"<|channel|>commentary<|message|>{answer}<|end|><|start|>assistant{rendered}"
    first = assemble(REASONING_FORMATS["gpt_oss"].make(False), cut(text, places))
    assert first.reasoning == thoughts
    second = assemble(TOOL_FORMATS["gpt_oss"].make(TOOLS), cut(first.content, more))
    assert second.content == answer.rstrip(WHITE_SPACE)
    assert [(tool, json.loads(arguments)) for tool, arguments in second.calls] == calls
