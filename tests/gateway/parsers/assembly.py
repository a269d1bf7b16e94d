"""What the deltas of a parser add up to, however its text was cut."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from bough.gateway.parsers.base import Delta, ReasoningParser, ToolParser
from bough.gateway.parsers.registry import REASONING_FORMATS, TOOL_FORMATS, ToolSpec

WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "least": {"type": "number"},
        "exact": {"type": "boolean"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "options": {"type": "object"},
        "unit": {"type": ["string", "null"]},
    },
    "required": ["city"],
}
TOOLS = (
    ToolSpec(name="get_weather", parameters=WEATHER, strict=True),
    ToolSpec(name="get", parameters={"type": "object", "properties": {"days": {"type": "integer"}}}),
    ToolSpec(name="ping"),
)
"""One name is the beginning of another."""


@dataclass(slots=True)
class Message:
    """A message that was put together from deltas."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    """Names, and arguments as text."""

    def add(self, delta: Delta) -> None:
        """Take a delta in, as a client does."""
        self.content += delta.content
        self.reasoning += delta.reasoning
        for call in delta.calls:
            if call.index == len(self.calls):
                assert call.name, "the first delta of a call has its name"
                self.calls.append((call.name, call.arguments))
            else:
                assert call.index == len(self.calls) - 1, "calls come one after another"
                assert call.name is None, "and no other delta has a name"
                name, arguments = self.calls[-1]
                self.calls[-1] = (name, arguments + call.arguments)


def assemble(parser: ToolParser | ReasoningParser, pieces: Iterable[str]) -> Message:
    """The message that a parser makes of a text in pieces."""
    message = Message()
    for piece in pieces:
        message.add(parser.feed(piece))
    message.add(parser.finish())
    return message


def splits(text: str) -> Iterator[Sequence[str]]:
    """Every way to cut a text in two, and character by character."""
    yield list(text)
    for place in range(1, len(text)):
        yield [text[:place], text[place:]]


def read_calls(name: str, text: str, tools: Sequence[ToolSpec] = TOOLS) -> Message:
    """What a tool format makes of a text, the same under every split."""
    make = TOOL_FORMATS[name].make
    whole = assemble(make(tools), [text])
    for pieces in splits(text):
        assert assemble(make(tools), pieces) == whole, pieces
    return whole


def read_thoughts(name: str, text: str, *, is_open: bool = False) -> Message:
    """What a reasoning format makes of a text, the same under every split."""
    make = REASONING_FORMATS[name].make
    whole = assemble(make(is_open), [text])
    for pieces in splits(text):
        assert assemble(make(is_open), pieces) == whole, pieces
    return whole


def check_calls(name: str, text: str, content: str, *calls: tuple[str, Any]) -> None:
    """A text is read as this content and these calls, their arguments compared as JSON."""
    message = read_calls(name, text)
    assert message.content == content
    assert [(tool, json.loads(arguments)) for tool, arguments in message.calls] == list(calls)


def check_cut(name: str, text: str, content: str, *calls: tuple[str, str]) -> None:
    """A text is read as this content and these calls, their arguments compared as text."""
    message = read_calls(name, text)
    assert (message.content, message.calls) == (content, list(calls))
