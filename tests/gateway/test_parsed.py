"""A sequence read piece by piece: the same however it was cut, with its thoughts counted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import FinishReason
from bough.gateway.domain import ToolUse
from bough.gateway.parsed import Reader, Reading
from bough.gateway.parsers.registry import REASONING_FORMATS, TOOL_FORMATS
from bough.gateway.parsers.spec import ToolSpec
from bough.gateway.receiver import Piece
from tests.gateway.chats import hermes

THINK_END = 9
TEXT = "deep <tool_call></think>\n\n Let me see. \n" + hermes(("f", {"a": [1, 2]}), ("g", {}), ("f", {})) + " \n"


def reading(*, parallel: bool = True, end_ids: tuple[int, ...] = (THINK_END,)) -> Reading:
    use = ToolUse(tools=(ToolSpec(name="f"), ToolSpec(name="g")), parallel=parallel)
    return Reading(
        reasoning=REASONING_FORMATS["qwen3"],
        in_thoughts=True,
        end_ids=end_ids,
        tools=TOOL_FORMATS["hermes"],
        use=use,
    )


def piece(text: str, tokens: Sequence[int] = (), finish: FinishReason = FinishReason.NONE) -> Piece:
    return Piece(0, text, [*tokens], None, finish, "", 0)


def read_all(reader: Reader, texts: Sequence[str], finish: FinishReason = FinishReason.STOP) -> tuple[object, ...]:
    """(thoughts, content, calls, finish reason) that pieces add up to."""
    reasoning = content = ""
    calls: list[list[str]] = []
    for i, text in enumerate(texts):
        delta = reader.read(piece(text, finish=finish if i == len(texts) - 1 else FinishReason.NONE))
        reasoning, content = reasoning + delta.reasoning, content + delta.content
        for call in delta.calls:
            if call.name is not None:
                calls.append([call.name, ""])
            calls[call.index][1] += call.arguments
    return reasoning, content, calls, reader.finish_name(finish)


@pytest.mark.parametrize("parallel", [True, False])
@given(st.lists(st.integers(0, len(TEXT)), max_size=12))
def test_how_the_text_was_cut_makes_no_difference(parallel: bool, places: list[int]) -> None:
    bounds = [0, *sorted(places), len(TEXT)]
    texts = [TEXT[start:end] for start, end in itertools.pairwise(bounds)]
    found = read_all(reading(parallel=parallel).reader(), texts)
    calls = [["f", '{"a": [1, 2]}'], ["g", "{}"], ["f", "{}"]]
    assert found[1].strip() == "Let me see."  # type: ignore[attr-defined]
    assert found == read_all(reading(parallel=parallel).reader(), [TEXT])
    assert found[2:] == (calls if parallel else calls[:1], "tool_calls")


def test_every_place_of_one_cut() -> None:
    expected = read_all(reading().reader(), [TEXT])
    for place in range(len(TEXT) + 1):
        assert read_all(reading().reader(), [TEXT[:place], TEXT[place:]]) == expected, place


def test_arguments_are_not_held_back_until_they_are_whole() -> None:
    reader, before = reading().reader(), TEXT.index("[1, 2]")
    reader.read(piece(TEXT[:before]))
    delta = reader.read(piece("[1,"))
    assert [(call.index, call.name, call.arguments) for call in delta.calls] == [(0, None, "[1,")]


def test_the_last_piece_may_be_empty() -> None:
    assert read_all(reading().reader(), [TEXT, ""]) == read_all(reading().reader(), [TEXT])


@pytest.mark.parametrize("cut", [(1, 1, 1, 1, 1, 1), (3, 3), (2, 4), (6,)])
def test_one_token_for_the_end_of_thoughts_counts_them_exactly(cut: tuple[int, ...]) -> None:
    tokens, texts = [1, 2, 3, THINK_END, 5, 6], ["deep ", "th", "oughts", "</think>", "\n\n", "42"]
    reader, start = reading().reader(), 0
    for length in cut:
        end = start + length
        finish = FinishReason.STOP if end == 6 else FinishReason.NONE
        reader.read(piece("".join(texts[start:end]), tokens[start:end], finish))
        start = end
    assert reader.reasoning_tokens == 4


def test_several_tokens_for_it_count_them_by_pieces() -> None:
    reader = reading(end_ids=(7, 8)).reader()
    for text in ("deep ", "thoughts", "</thi", "nk>", "42", "43"):
        reader.read(piece(text, [1]))
    assert reader.reasoning_tokens == 4
    reader = reading(end_ids=(7, 8)).reader()
    reader.read(piece("12345</think>67890", [1] * 8))
    assert reader.reasoning_tokens == 4


@pytest.mark.parametrize(
    ("finish", "name"),
    [(FinishReason.STOP, "tool_calls"), (FinishReason.STOP_STRING, "tool_calls"), (FinishReason.LENGTH, "length")],
)
def test_a_reason_to_finish_tells_of_calls_unless_the_text_was_cut(finish: FinishReason, name: str) -> None:
    assert read_all(reading().reader(), [TEXT], finish)[-1] == name
    assert read_all(reading().reader(), ["</think>42"], FinishReason.STOP)[-1] == "stop"


SCRAPS = [
    *(
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        "<function=f>",
        "<parameter=a>",
        "</parameter>",
        "</function>",
    ),
    *(
        "[TOOL_CALLS]",
        "[ARGS]",
        "<|python_tag|>",
        "[f(a=1)]",
        "<|channel|>",
        "analysis",
        "final",
        "<|message|>",
        "<|end|>",
    ),
    *(
        "<|start|>",
        "<|call|>",
        " to=functions.f",
        "functions.f:0",
        "<arg_key>",
        "</arg_key>",
        "<arg_value>",
        "</arg_value>",
    ),
    *(
        '{"name": "f", "arguments": {"a": 1}}',
        '{"name": "f"',
        '"arguments": ',
        "{",
        "}",
        "[",
        "]",
        ",",
        "\n",
        " ",
        "f",
        "\\u12",
    ),
]


@pytest.mark.parametrize("thoughts", [None, *REASONING_FORMATS])
@settings(max_examples=60)
@given(st.data())
def test_scraps_of_all_formats_are_read_the_same_in_single_characters(
    thoughts: str | None, data: st.DataObject
) -> None:
    found = Reading(
        reasoning=None if thoughts is None else REASONING_FORMATS[thoughts],
        in_thoughts=data.draw(st.booleans()),
        tools=TOOL_FORMATS[data.draw(st.sampled_from(sorted(TOOL_FORMATS)))],
        use=ToolUse(tools=(ToolSpec(name="f"),)),
    )
    text = "".join(data.draw(st.lists(st.sampled_from(SCRAPS), max_size=12)))
    assert read_all(found.reader(), [*text, ""]) == read_all(found.reader(), [text])
