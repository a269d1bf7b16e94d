"""What is certain is said at once; only what may be a marker is kept back."""

from __future__ import annotations

import pytest

from bough.gateway.parsers.base import CallDelta, Delta
from bough.gateway.parsers.registry import TOOL_FORMATS, ToolSpec
from bough.gateway.parsers.scanner import MarkerFinder
from tests.gateway.parsers.assembly import TOOLS
from tests.gateway.parsers.renderings import RENDERINGS

JSON_ARGUMENTS = ["hermes", "llama3", "mistral", "mistral_v11", "deepseek_v3", "deepseek_v31", "gpt_oss", "kimi_k2"]


def feed(name: str, *pieces: str) -> list[Delta]:
    parser = TOOL_FORMATS[name].make(TOOLS)
    return [parser.feed(piece) for piece in pieces]


def test_plain_text_passes_at_once() -> None:
    for name in TOOL_FORMATS:
        assert feed(name, "Seven", " times", " eight") == [Delta("Seven"), Delta(" times"), Delta(" eight")]


def test_only_the_beginning_of_a_marker_and_white_space_are_kept_back() -> None:
    assert feed("hermes", "a <tool", "s> b\n", "c") == [Delta("a"), Delta(" <tools> b"), Delta("\nc")]


@pytest.mark.parametrize("rendering", JSON_ARGUMENTS)
def test_name_and_arguments_are_given_on_while_they_come(rendering: str) -> None:
    text = RENDERINGS[rendering][1]([("get_weather", {"city": "Ulm and Bonn"})])
    middle = text.index("Ulm")
    end = text.index("Bonn")
    first, second = feed(RENDERINGS[rendering][0], text[:middle], text[middle:end])
    assert first.calls == (CallDelta(0, "get_weather", '{"city": "'),)
    assert second.calls == (CallDelta(0, None, "Ulm and "),)


@pytest.mark.parametrize("rendering", ["qwen3_coder", "glm45"])
def test_strings_of_xml_formats_are_given_on_while_they_come(rendering: str) -> None:
    text = RENDERINGS[rendering][1]([("get_weather", {"city": 'Ulm "and" Bonn'})])
    middle, end = text.index("Ulm"), text.index("Bonn")
    first, second = feed(rendering, text[:middle], text[middle:end])
    assert first.calls == (CallDelta(0, "get_weather", '{"city": "'),)
    assert second.calls == (CallDelta(0, None, 'Ulm \\"and\\" '),)


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
def test_without_tools_everything_is_text(name: str) -> None:
    rendering = next(render for used, render in RENDERINGS.values() if used in (name, "hermes"))
    text = rendering([("ping", {})])
    parser = TOOL_FORMATS[name].make([])
    assert parser.feed(text).content + parser.finish().content == text


def test_one_delta_has_a_call_once() -> None:
    text = RENDERINGS["hermes"][1]([("get", {"days": 1}), ("ping", {})])
    assert feed("hermes", text) == [Delta(calls=(CallDelta(0, "get", '{"days": 1}'), CallDelta(1, "ping", "{}")))]


def test_a_finder_knows_markers_and_their_beginnings() -> None:
    finder = MarkerFinder(["<a>", "<ab>"])
    assert finder.find("x<ab><a>") == (1, "<ab>")
    assert finder.find("x<ab><a>", 2) == (5, "<a>")
    assert finder.find("<b>") is None
    assert [finder.partial(text) for text in ("", "x", "<", "x<a", "<a<ab", "<a<abc", "<ab>")] == [0, 0, 1, 2, 3, 0, 0]
    assert MarkerFinder([]).find("x") is None and MarkerFinder([]).partial("x") == 0


@pytest.mark.parametrize("name", sorted(TOOL_FORMATS))
def test_a_long_name_is_no_name_of_a_tool(name: str) -> None:
    tools = [ToolSpec(name="a")]
    text = RENDERINGS[name if name in RENDERINGS else "hermes"][1]([("a" * 50, {})])
    parser = TOOL_FORMATS[name].make(tools)
    assert parser.feed(text).content + parser.finish().content == text
