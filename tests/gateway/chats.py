"""Chats with a gateway under test, streamed and not, and what their events add up to."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.gateway.conftest import Deployment

CHAT = "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "x"}]


def tool(name: str, *, strict: bool | None = None, **properties: str) -> dict[str, Any]:
    """A tool whose parameters are of these types, all of them required."""
    schema = {"type": "object", "properties": {key: {"type": kind} for key, kind in properties.items()}}
    function: dict[str, Any] = {"name": name, "parameters": {**schema, "required": [*properties]}}
    return {"type": "function", "function": function | ({} if strict is None else {"strict": strict})}


def hermes(*calls: tuple[str, Any]) -> str:
    """Calls as a model with the format `hermes` writes them; arguments that are text are taken as they are."""
    written = [arguments if isinstance(arguments, str) else json.dumps(arguments) for _, arguments in calls]
    texts = [
        f'<tool_call>\n{{"name": "{name}", "arguments": {arguments}}}\n</tool_call>'
        for (name, _), arguments in zip(calls, written, strict=True)
    ]
    return "\n".join(texts)


async def ask(deployment: Deployment, **body: Any) -> httpx.Response:
    """POST a chat."""
    return await deployment.client.post(CHAT, json={"messages": MESSAGES, **body})


async def whole(deployment: Deployment, **body: Any) -> dict[str, Any]:
    """The only choice of a chat that is answered."""
    answer = await ask(deployment, **body)
    assert answer.status_code == 200, answer.text
    (choice,) = answer.json()["choices"]
    found: dict[str, Any] = choice
    return found


async def events(deployment: Deployment, **body: Any) -> list[dict[str, Any]]:
    """The events of a streamed chat."""
    answer = await ask(deployment, stream=True, **body)
    assert answer.status_code == 200, answer.text
    *lines, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    return [json.loads(line) for line in lines]


def assembled(chunks: list[dict[str, Any]], index: int = 0) -> dict[str, Any]:
    """The choice that the deltas of a stream add up to, as `whole` gives it; ids of calls are checked and left out."""
    message: dict[str, Any] = {"role": None, "content": None, "refusal": None}
    calls: list[dict[str, Any]] = []
    finish = None
    for choice in (c for chunk in chunks for c in chunk["choices"] if c["index"] == index):
        assert finish is None, "nothing comes after the end"
        finish, delta = choice["finish_reason"], dict(choice["delta"])
        for part in delta.pop("tool_calls", ()):
            if "id" in part:
                assert part == {**part, "index": len(calls), "type": "function"} and part["function"]["name"]
                assert part["function"]["arguments"] == ""
                calls.append({"type": "function", "function": dict(part["function"])})
            else:
                assert set(part) == {"index", "function"} and set(part["function"]) == {"arguments"}
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        for name, text in delta.items():
            message[name] = text if message.get(name) is None else message[name] + text
    if calls:
        message["tool_calls"] = calls
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish}


def without_ids(choice: dict[str, Any]) -> dict[str, Any]:
    """A whole choice as `assembled` gives it."""
    message = dict(choice["message"])
    if "tool_calls" in message:
        message["tool_calls"] = [{k: v for k, v in call.items() if k != "id"} for call in message["tool_calls"]]
    return {**choice, "message": message}
