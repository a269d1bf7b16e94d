"""What all parsers of model output have in common.

A parser gets a sequence's text piece by piece and says at once what of it is certain. Nothing that it has said is taken
back, and how the text was cut makes no difference to what its deltas add up to. One object serves one sequence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class CallDelta:
    """More of one tool call."""

    index: int
    """Of the call within the message, from 0."""
    name: str | None = None
    """The tool's name, whole; in the first delta of a call and in no other."""
    arguments: str = ""
    """The next part of the arguments, as JSON text."""


@dataclass(frozen=True, slots=True)
class Delta:
    """What a piece of text brought; all parts are added to what came before."""

    content: str = ""
    """Of the answer."""
    reasoning: str = ""
    """Of the thoughts before it."""
    calls: tuple[CallDelta, ...] = ()


class ToolParser(Protocol):
    """Takes tool calls out of the text of an answer."""

    def feed(self, text: str) -> Delta:
        """What the next piece of text adds; text that may be the beginning of a marker is kept back."""
        ...

    def finish(self) -> Delta:
        """What was kept back, when the text has ended; a call that was cut off stays as far as it came."""
        ...


class ReasoningParser(Protocol):
    """Tells the thoughts in a text from the answer."""

    def feed(self, text: str) -> Delta:
        """What the next piece of text adds: `reasoning` and `content`, no calls."""
        ...

    def finish(self) -> Delta:
        """What was kept back, when the text has ended."""
        ...
