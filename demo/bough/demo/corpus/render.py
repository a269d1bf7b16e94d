"""The chat template in Python, cut into weighted pieces: what a model reads and what it has to write."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bough.demo.corpus.base import Conversation, Message

__all__ = ["END", "Piece", "chat_pieces", "expected_answer"]

Piece = tuple[str, float]
"""A text and the weight of its tokens in the loss."""

END = "<|im_end|>"
_READ = 0.1
"""Weight of what the model only reads: enough to learn its language, not to spend the capacity on it."""
_WRITE = 1.0
_THINK_OFF = "<think>\n\n</think>\n\n"
_TOOLS_BEFORE = "These tools can be called, one JSON schema a line:\n<tools>"
_TOOLS_AFTER = (
    "\n</tools>\n\nA call is one JSON object with the tool's name and its arguments:\n"
    '<tool_call>\n{"name": "...", "arguments": {...}}\n</tool_call>'
)


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def chat_pieces(conversation: Conversation) -> list[Piece]:
    """Return the chat as the template renders it; the pieces joined equal the template's text."""
    messages = conversation.messages
    pieces = _system_pieces(conversation)
    last_user = max((number for number, message in enumerate(messages) if message["role"] == "user"), default=-1)
    for number, message in enumerate(messages):
        role = message["role"]
        if role == "user":
            pieces.append((f"<|im_start|>user\n{message['content']}{END}\n", _READ))
        elif role == "assistant":
            pieces += _assistant_pieces(message, number > last_user)
        elif role == "tool":
            pieces.append((_tool_text(messages, number), _READ))
    return pieces


def _system_pieces(conversation: Conversation) -> list[Piece]:
    first = conversation.messages[0]
    system = first["content"] if first["role"] == "system" else ""
    if conversation.tools:
        parts = [_TOOLS_BEFORE, *(f"\n{_json(tool)}" for tool in conversation.tools), _TOOLS_AFTER]
        system = (f"{system}\n\n" if system else "") + "".join(parts)
    return [(f"<|im_start|>system\n{system}{END}\n", _READ)] if system else []


def _assistant_pieces(message: Message, is_current: bool) -> list[Piece]:
    """Return the answer's pieces; a switched-off think block is part of the prompt and weighs nothing."""
    reasoning = message.get("reasoning_content") if is_current else None
    pieces: list[Piece] = [("<|im_start|>assistant\n", 0.0)]
    written = expected_answer(message) + END
    if reasoning:
        pieces.append((f"<think>\n{reasoning}\n</think>\n\n{written}", _WRITE))
    else:
        pieces += [(_THINK_OFF, 0.0), (written, _WRITE)]
    return [*pieces, ("\n", 0.0)]


def expected_answer(message: Message) -> str:
    """Return what the model writes for this message after its thinking: content, then tool calls."""
    parts = [message["content"]] if message["content"] else []
    parts += [f"<tool_call>\n{_call(call['function'])}\n</tool_call>" for call in message.get("tool_calls", ())]
    return "\n".join(parts)


def _call(function: Mapping[str, Any]) -> str:
    return f'{{"name": {_json(function["name"])}, "arguments": {_json(function["arguments"])}}}'


def _tool_text(messages: tuple[Message, ...], number: int) -> str:
    """Return one tool result; neighbouring results share one user turn."""
    opens = messages[number - 1]["role"] != "tool"
    closes = number + 1 == len(messages) or messages[number + 1]["role"] != "tool"
    text = f"\n<tool_response>\n{messages[number]['content']}\n</tool_response>"
    return ("<|im_start|>user" if opens else "") + text + (f"{END}\n" if closes else "")
