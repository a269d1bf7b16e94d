"""OpenAI-shaped chat messages, brought into the shape that chat templates read."""

from __future__ import annotations

import json
from typing import Any

from bough.common.errors import InvalidRequestError
from bough.gateway.domain import ChatPrompt
from bough.gateway.errors import refuse
from bough.gateway.schema import ChatBody, TokenizeBody
from bough.gateway.tools import check_tools


def chat_prompt(body: ChatBody | TokenizeBody) -> ChatPrompt:
    """The prompt of a chat body. InvalidRequestError names the message and what is wrong with it."""
    messages = [_message(message, f"messages[{i}]") for i, message in enumerate(body.messages or ())]
    continue_final = bool(body.continue_final_message)
    add_prompt = not continue_final if body.add_generation_prompt is None else body.add_generation_prompt
    if continue_final and add_prompt:
        raise refuse("continue_final_message", True, "false together with add_generation_prompt")
    tools: list[dict[str, Any]] = []
    kwargs = dict(body.chat_template_kwargs or {})
    if isinstance(body, ChatBody):
        if body.reasoning_effort is not None:
            kwargs.setdefault("reasoning_effort", body.reasoning_effort)
        if body.reasoning_effort == "none" or thinking_budget(body) == 0:
            # The two names that templates have for it; one that knows neither is not changed by them.
            kwargs.setdefault("enable_thinking", False)
            kwargs.setdefault("thinking", False)
        if body.tool_choice != "none":
            tools = _tools(body)
    else:
        tools = _tools(body)
    return ChatPrompt(
        messages_json=_dump(messages, "messages"),
        tools_json=_dump(tools, "tools") if tools else "",
        template_kwargs_json=_dump(kwargs, "chat_template_kwargs") if kwargs else "",
        add_generation_prompt=add_prompt,
        continue_final_message=continue_final,
    )


def thinking_budget(body: ChatBody) -> int | None:
    """Tokens of thoughts at most, by either of its names. InvalidRequestError where they contradict each other."""
    one, other = body.thinking_budget, body.max_thinking_tokens
    if one is not None and other is not None and one != other:
        raise refuse("max_thinking_tokens", other, f"null, or the value of thinking_budget ({one})")
    return other if one is None else one


def _tools(body: ChatBody | TokenizeBody) -> list[dict[str, Any]]:
    tools = body.tools or []
    check_tools(tools)
    return [{"type": tool.type, "function": tool.function} for tool in tools]


def _message(message: dict[str, Any], path: str) -> dict[str, Any]:
    role = message.get("role")
    if not isinstance(role, str) or not 1 <= len(role) <= 64:
        raise refuse(f"{path}.role", role, "a name such as system, user, assistant or tool")
    result = dict(message)
    # OpenAI's newer name of the same thing; templates know only the older one.
    result["role"] = "system" if role == "developer" else role
    if "content" in message or "tool_calls" not in message:
        result["content"] = _content(message.get("content"), f"{path}.content")
    if message.get("tool_calls") is not None:
        result["tool_calls"] = _tool_calls(message["tool_calls"], f"{path}.tool_calls")
    return result


def _content(content: Any, path: str) -> str | None:
    if content is None or isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise refuse(path, content, "a string or a list of text parts")
    texts = []
    for i, part in enumerate(content):
        if not isinstance(part, dict) or part.get("type") != "text" or not isinstance(part.get("text"), str):
            shown = part.get("type") if isinstance(part, dict) else part
            raise refuse(f"{path}[{i}]", shown, '{"type": "text", "text": …}: only text is served')
        texts.append(part["text"])
    return "\n".join(texts)


def _tool_calls(calls: Any, path: str) -> list[dict[str, Any]]:
    if not isinstance(calls, list):
        raise refuse(path, calls, "a list of tool calls")
    result = []
    for i, call in enumerate(calls):
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise refuse(f"{path}[{i}].function", function, "an object with name and arguments")
        result.append({**call, "function": {**function, "arguments": _arguments(function.get("arguments"))}})
    return result


def _arguments(arguments: Any) -> Any:
    """Templates write the arguments as JSON themselves; what a model once wrote wrongly stays a string."""
    if not isinstance(arguments, str):
        return arguments
    try:
        parsed = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    return parsed if isinstance(parsed, dict) else arguments


def _dump(value: Any, field: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise InvalidRequestError(f"{field}: holds a number that JSON cannot say", field=field) from None
