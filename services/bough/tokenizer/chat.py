"""A chat as it arrives: parsed, checked, and brought into the shape that chat templates expect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from bough.common.errors import InvalidRequestError

Message = dict[str, Any]

_RESERVED = frozenset({"messages", "add_generation_prompt", "continue_final_message", "chat_template", "tools"})
_REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """What a chat template is rendered with."""

    messages: list[Message]
    tools: list[dict[str, Any]] | None = None
    """None, not an empty list, where there are none: templates test for it either way."""
    variables: dict[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool = False
    continue_final_message: bool = False

    def first(self, num_messages: int, *, is_open: bool) -> Chat:
        """The chat when it had only so many messages, the last of which is to be continued where it is open.

        Raises:
            InvalidRequestError: It has not so many.
        """
        if num_messages > len(self.messages):
            raise _invalid("num_known", f"is {num_messages}; the chat has {len(self.messages)} messages")
        messages = self.messages[:num_messages]
        return replace(self, messages=messages, add_generation_prompt=False, continue_final_message=is_open)


def parse_chat(
    messages_json: str,
    tools_json: str = "",
    template_kwargs_json: str = "",
    *,
    add_generation_prompt: bool = False,
    continue_final_message: bool = False,
) -> Chat:
    """Parse and check a chat.

    Raises:
        InvalidRequestError: Something is wrong; the message begins with the field's name.
    """
    messages = _parse(messages_json, "messages")
    tools = _parse(tools_json, "tools") if tools_json else None
    variables = _parse(template_kwargs_json, "template_kwargs") if template_kwargs_json else {}
    _require_objects(messages, "messages")
    if not messages:
        raise _invalid("messages", "is empty; at least one message is needed")
    if tools is not None:
        _require_objects(tools, "tools")
    if not isinstance(variables, dict):
        raise _invalid("template_kwargs", f"must be a JSON object, got {_kind(variables)}")
    if reserved := sorted(_RESERVED & variables.keys()):
        raise _invalid("template_kwargs", f"must not set {', '.join(reserved)}")
    if add_generation_prompt and continue_final_message:
        raise _invalid("continue_final_message", "cannot be combined with add_generation_prompt")
    return Chat(
        messages=[_normalize(message) for message in messages],
        tools=tools or None,
        variables=variables,
        add_generation_prompt=add_generation_prompt,
        continue_final_message=continue_final_message,
    )


def flatten_contents(messages: list[Message]) -> list[Message]:
    """Replace content given as a list of text parts by their text, for templates that only know strings.

    Raises:
        InvalidRequestError: A part is not text.
    """
    return [
        {**message, "content": _joined(message["content"], f"messages[{i}].content")}
        if isinstance(message.get("content"), list)
        else message
        for i, message in enumerate(messages)
    ]


def find_surrogate(value: object, path: str) -> str | None:
    """Where in parsed JSON a string holds a lone surrogate, which no tokenizer can encode; None for nowhere."""
    for where, text in _strings(value, path):
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"{where} holds a lone surrogate (U+{ord(text[error.start]):04X}) at character {error.start}"
    return None


def _strings(value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _strings(item, f"{path}[{i}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"a key of {path}", key
            yield from _strings(item, f"{path}.{key}")


def _normalize(message: Message) -> Message:
    """Drop null fields, name reasoning as templates read it, and turn tool call arguments into objects."""
    message = {key: value for key, value in message.items() if value is not None}
    reasoning = next((message[name] for name in _REASONING_NAMES if name in message), None)
    if reasoning is not None:
        message = {"thinking": reasoning, **message, "reasoning_content": reasoning}
    if isinstance(message.get("tool_calls"), list):
        message["tool_calls"] = [_with_object_arguments(call) for call in message["tool_calls"]]
    return message


def _with_object_arguments(call: object) -> object:
    # OpenAI carries arguments as a JSON string; templates apply `tojson` to them and would quote that string again.
    if not isinstance(call, dict) or not isinstance(call.get("function"), dict):
        return call
    arguments = call["function"].get("arguments")
    if not isinstance(arguments, str):
        return call
    try:
        parsed = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**call["function"], "arguments": parsed}} if isinstance(parsed, dict) else call


def _joined(parts: list[Any], where: str) -> str:
    texts = []
    for i, part in enumerate(parts):
        text = part.get("text") if isinstance(part, dict) else part
        if not isinstance(text, str):
            kind = part.get("type") if isinstance(part, dict) else _kind(part)
            raise _invalid("messages", f"{where}[{i}] is {kind!r}; this model takes text parts only")
        texts.append(text)
    return "\n".join(texts)


def _parse(text: str, name: str) -> Any:
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise _invalid(name, "is nested too deeply") from None
    except ValueError as error:
        raise _invalid(name, f"is not valid JSON: {error}") from None


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _require_objects(value: object, name: str) -> None:
    if not isinstance(value, list):
        raise _invalid(name, f"must be a JSON array of objects, got {_kind(value)}")
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            raise _invalid(name, f"[{i}] must be an object, got {_kind(item)}")


def _kind(value: object) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", type(None): "null"}
    return names.get(type(value), "number")


def _invalid(name: str, text: str) -> InvalidRequestError:
    return InvalidRequestError(f"{name}{'' if text.startswith('[') else ' '}{text}", field=name)
