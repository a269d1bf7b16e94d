"""What a format of tool calls or of thoughts is: how its text is read, and how a model is held to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bough.gateway.parsers.base import ReasoningParser, ToolParser


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolSpec:
    """A tool that a model may call."""

    name: str
    parameters: dict[str, Any] | bool = True
    """JSON schema of the arguments; True when the tool has none."""
    strict: bool = False
    """Whether a constrained model is held to that schema; otherwise its arguments are any JSON object."""


class BuildStructuralTag(Protocol):
    """Builds a constraint."""

    def __call__(
        self, tools: Sequence[ToolSpec], *, required: bool, parallel: bool, reads_schema: bool
    ) -> dict[str, Any]:
        """The constraint under which a model writes calls of these tools, and nothing like one that is none.

        Args:
            tools: The tools that may be called, one at least.
            required: At least one call, and no text around the calls; otherwise text with calls in it.
            parallel: More than one call is allowed.
            reads_schema: Arguments of strict tools follow their schemas; if False, they are any JSON object.

        Returns:
            A structural tag as xgrammar reads it, to be written as JSON.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a family of models writes tool calls."""

    name: str
    make: Callable[[Sequence[ToolSpec]], ToolParser]
    """A parser for one sequence. Calls of other tools than these are text."""
    keeps_special_tokens: bool
    """The markers are special tokens in such models: the text must be decoded with them in it."""
    structural_tag: BuildStructuralTag


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningFormat:
    """How a family of models marks its thoughts."""

    name: str
    make: Callable[[bool], ReasoningParser]
    """A parser for one sequence; True if the prompt opened the thoughts already, so that the text begins in them."""
    start: str
    """The text that opens the thoughts."""
    end: str
    """The text that closes them."""
    keeps_special_tokens: bool
    """The markers are special tokens in such models: the text must be decoded with them in it."""
