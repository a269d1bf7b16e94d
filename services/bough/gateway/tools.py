"""Tools of a chat: what may be called, what must be, and what a body may say of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from bough.gateway.constraints import two_constraints
from bough.gateway.domain import Constraint, ToolUse
from bough.gateway.errors import refuse
from bough.gateway.parsers.spec import ToolSpec
from bough.gateway.schema import ChatBody, Tool

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_CHOICES = (
    '"none", "auto", "required", {"type": "function", "function": {"name": …}}, '
    'or {"type": "allowed_tools", "allowed_tools": {"mode": …, "tools": […]}}'
)

# A tool that names no parameters takes none.
_NO_PARAMETERS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


def check_tools(tools: Sequence[Tool]) -> None:
    """Refuse tools that a model cannot be told of: names, parameters, and two with one name."""
    places: dict[str, int] = {}
    for i, tool in enumerate(tools):
        function, path = tool.function, f"tools[{i}].function"
        name, parameters, strict = function.get("name"), function.get("parameters"), function.get("strict")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise refuse(f"{path}.name", name, "1 to 64 letters, digits, underscores and hyphens")
        if name in places:
            raise refuse(f"{path}.name", name, f"a name that no other tool has: tools[{places[name]}] is called so")
        places[name] = i
        if parameters is not None and not isinstance(parameters, dict):
            raise refuse(f"{path}.parameters", parameters, "an object: a JSON schema")
        if parameters is not None and parameters.get("type", "object") != "object":
            raise refuse(f"{path}.parameters.type", parameters["type"], '"object": arguments are one JSON object')
        if strict is not None and not isinstance(strict, bool):
            raise refuse(f"{path}.strict", strict, "true, false or null")


def tool_use(body: ChatBody, constraint: Constraint | None) -> ToolUse | None:
    """Which calls the answer may hold; None where there can be none.

    Args:
        body: A chat.
        constraint: What else the output must follow.

    Raises:
        InvalidRequestError: Tools or choice are wrong, or a call is forced beside another constraint.
    """
    tools = body.tools or []
    check_tools(tools)
    choice = body.tool_choice
    if choice in (None, "auto", "none"):
        names, required, named = [tool.function["name"] for tool in tools], False, False
    else:
        names, required, named = _forced(choice, tools)
    if not tools or choice == "none":
        return None
    if required and constraint is not None:
        raise two_constraints("tool_choice", constraint.field)
    return ToolUse(
        tools=tuple(_spec(tool, required=required) for tool in tools if tool.function["name"] in names),
        required=required,
        named=named,
        parallel=body.parallel_tool_calls is not False and not named,
    )


def _forced(choice: Any, tools: Sequence[Tool]) -> tuple[list[str], bool, bool]:
    """(names, whether a call is required, whether one tool was named) of a choice other than auto and none."""
    if not tools:
        raise refuse("tool_choice", choice, '"none", "auto" or null without tools')
    known = [tool.function["name"] for tool in tools]
    if choice == "required":
        return known, True, False
    kind = choice.get("type") if isinstance(choice, dict) else None
    if kind == "function":
        return [_known(choice, known, "tool_choice")], True, True
    if kind != "allowed_tools":
        raise refuse("tool_choice", choice, _CHOICES)
    allowed = choice.get("allowed_tools")
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    listed = allowed.get("tools") if isinstance(allowed, dict) else None
    if mode not in ("auto", "required") or not isinstance(listed, list) or not listed:
        raise refuse("tool_choice.allowed_tools", allowed, 'an object with mode "auto" or "required" and tools')
    paths = [f"tool_choice.allowed_tools.tools[{i}]" for i in range(len(listed))]
    names = [_known(entry, known, path) for entry, path in zip(listed, paths, strict=True)]
    return names, mode == "required", False


def _known(entry: Any, known: list[str], path: str) -> str:
    function = entry.get("function") if isinstance(entry, dict) else None
    name = function.get("name") if isinstance(function, dict) else None
    if name not in known:
        raise refuse(f"{path}.function.name", name, f"the name of one of the tools: {', '.join(known)}")
    return str(name)


def _spec(tool: Tool, *, required: bool) -> ToolSpec:
    """A call that is forced follows the tool's schema, strict or not: clients that never say so rely on it."""
    parameters = tool.function.get("parameters")
    return ToolSpec(
        name=tool.function["name"],
        parameters=_NO_PARAMETERS if parameters is None else {"type": "object", **parameters},
        strict=required or tool.function.get("strict") is True,
    )
