"""How the model served marks its thoughts and its tool calls, and what follows for one call from that."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

from bough.common.config import ConfigError
from bough.common.sampling import GrammarKind, Reasoning
from bough.gateway.constraints import behind, one_of
from bough.gateway.domain import ChatPrompt, Constraint, GenerationRequest, ToolUse
from bough.gateway.errors import refuse
from bough.gateway.parsed import Reading
from bough.gateway.parsers import gpt_oss
from bough.gateway.parsers.registry import REASONING_FORMATS, TOOL_FORMATS, detect
from bough.gateway.parsers.spec import ReasoningFormat, ToolFormat

Encode = Callable[[str], Awaitable[tuple[int, ...]]]

_AUTO, _NONE = "auto", "none"
F = TypeVar("F")


class Thoughts(Enum):
    """What a rendered prompt leaves the model to do."""

    NONE = "the answer begins, or has begun"
    POSSIBLE = "the model may open its thoughts itself"
    OPEN = "the prompt has opened them"


@dataclass(frozen=True, slots=True)
class Formats:
    """Formats of a model; None: it has none that is known."""

    tools: ToolFormat | None = None
    reasoning: ReasoningFormat | None = None


class Markup:
    """Finds the model's formats: by name, or by its chat template once the tokenizer has told it.

    Args:
        tool_parser: Name of a format of tool calls, `auto` or `none`.
        reasoning_parser: Name of a format of thoughts, `auto` or `none`.
        template: Gives the source of the chat template.
        encode: Token ids of a text, with nothing added.

    Raises:
        ConfigError: A name is not known; the message lists those that are.
    """

    def __init__(
        self, *, tool_parser: str, reasoning_parser: str, template: Callable[[], Awaitable[str]], encode: Encode
    ) -> None:
        check_names(tool_parser, reasoning_parser)
        self._names = (tool_parser, reasoning_parser)
        self._template = template
        self._encode = encode
        self._formats: Formats | None = None
        self._ids: dict[str, tuple[int, ...]] = {}

    async def formats(self) -> Formats:
        """The formats of the model served."""
        if self._formats is None:
            detected = detect(await self._template()) if _AUTO in self._names else (None, None)
            tools, reasoning = (
                found if name == _AUTO else name for name, found in zip(self._names, detected, strict=True)
            )
            self._formats = Formats(TOOL_FORMATS.get(tools or _NONE), REASONING_FORMATS.get(reasoning or _NONE))
        return self._formats

    async def reasoning(
        self, request: GenerationRequest, constraint: Constraint | None, thoughts: Thoughts
    ) -> Reasoning | None:
        """What the executor must know of the thoughts: where a constraint begins to hold, and when they have to end."""
        found = (await self.formats()).reasoning
        budget = request.thinking_budget
        if found is None or thoughts is Thoughts.NONE or (constraint is None and budget is None):
            return None
        # Models write the closing marker on a line of its own. Thoughts that could not even be opened are opened too.
        opening = f"{found.start}\n" if budget == 0 and thoughts is Thoughts.POSSIBLE else ""
        closing = () if budget is None else await self._ids_of(f"{opening}\n{found.end}")
        return Reasoning(end=found.end, max_tokens=budget, closing_ids=closing)

    async def reading(self, request: GenerationRequest, thoughts: Thoughts) -> Reading | None:
        """How the text of a call is read; None where it is the answer as it is."""
        found = await self.formats()
        tools = None if request.tools is None else found.tools
        reasoning = found.reasoning if request.separate_reasoning and thoughts is not Thoughts.NONE else None
        if tools is None and reasoning is None:
            return None
        return Reading(
            reasoning=reasoning,
            in_thoughts=thoughts is Thoughts.OPEN,
            end_ids=() if reasoning is None else await self._ids_of(reasoning.end),
            tools=tools,
            use=request.tools,
        )

    async def _ids_of(self, text: str) -> tuple[int, ...]:
        if text not in self._ids:
            self._ids[text] = await self._encode(text)
        return self._ids[text]


def check_names(tool_parser: str, reasoning_parser: str) -> None:
    """Raise ConfigError for a parser that does not exist."""
    _check("tool_parser", tool_parser, TOOL_FORMATS)
    _check("reasoning_parser", reasoning_parser, REASONING_FORMATS)


def check_thoughts(request: GenerationRequest, formats: Formats) -> None:
    """Refuse a budget for thoughts that nobody could count."""
    if request.thinking_budget and formats.reasoning is None:
        field = request.names.get("thinking_budget", "thinking_budget")
        accepted = "null or 0: no format of thoughts is known of this model (setting reasoning_parser)"
        raise refuse(field, request.thinking_budget, accepted)


def thoughts_after(text: str, prompt: ChatPrompt, formats: Formats) -> Thoughts:
    """What follows a rendered chat.

    Only its end counts: thoughts of earlier answers are in it too, and a user may write any marker.
    """
    if formats.reasoning is None:
        return Thoughts.NONE
    start, end = formats.reasoning.start, formats.reasoning.end
    opened, closed = text.rfind(start), text.rfind(end)
    if opened > closed and (prompt.continue_final_message or not text[opened + len(start) :].strip()):
        return Thoughts.OPEN
    if prompt.continue_final_message or text.rstrip().endswith(end.rstrip()):
        return Thoughts.NONE
    return Thoughts.POSSIBLE


def chat_constraint(request: GenerationRequest, formats: Formats) -> Constraint | None:
    """What the output of a call must follow, its tool calls included.

    Raises:
        InvalidRequestError: A call is forced, but nobody knows how this model would write one.
    """
    use, found, constraint = request.tools, formats.tools, _behind_head(request, formats)
    if use is None:
        return constraint
    if found is None:
        if use.required:
            accepted = '"auto" or "none": no format of tool calls is known of this model (setting tool_parser)'
            raise refuse("tool_choice", "required" if not use.named else use.tools[0].name, accepted)
        return constraint
    if constraint is not None:
        return one_of(_tag(use, found, required=True)["format"], constraint)
    if use.required or any(tool.strict for tool in use.tools):
        text = json.dumps(_tag(use, found, required=use.required), ensure_ascii=False)
        return Constraint(kind=GrammarKind.STRUCTURAL_TAG, text=text, field="tools")
    return None


def _behind_head(request: GenerationRequest, formats: Formats) -> Constraint | None:
    """The client's constraint, behind the header with which gpt-oss begins an answer unless it has begun."""
    constraint = request.constraint
    if constraint is None or formats.reasoning is None or formats.reasoning.name != "gpt_oss":
        return constraint
    if any(isinstance(prompt, ChatPrompt) and prompt.continue_final_message for prompt in request.prompts):
        return constraint
    return behind(f"{gpt_oss.START}assistant", f"{gpt_oss.CHANNEL}final{gpt_oss.MESSAGE}", constraint)


def _tag(use: ToolUse, found: ToolFormat, *, required: bool) -> dict[str, Any]:
    return found.structural_tag(use.tools, required=required, parallel=use.parallel, reads_schema=True)


def _check(setting: str, name: str, known: Mapping[str, F]) -> None:
    if name not in (_AUTO, _NONE) and name not in known:
        raise ConfigError(f"{setting} = {name!r}: accepted is one of {', '.join((_AUTO, _NONE, *sorted(known)))}")
