"""What a chat's further messages add to a state that holds the first ones."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any

from bough.common.errors import InvalidRequestError
from bough.gateway.errors import refuse
from bough.gateway.peers import Tokenizer
from bough.gateway.programs.actions import ChatExtension


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatTokens:
    """Tokens for a state."""

    ids: tuple[int, ...]
    replaces: bool = False
    """They take the place of what the state holds."""


async def chat_tokens(tokenizer: Tokenizer, extension: ChatExtension, *, traceparent: str = "") -> ChatTokens:
    """What the template makes of all messages, less what it makes of the known ones.

    Templates may write known messages otherwise once others follow: many leave out earlier thoughts. What there is of
    the chat then is replaced as a whole; the prefix cache still has all tokens up to where the two differ.

    Raises:
        InvalidRequestError: The chat is wrong, or the template refuses it.
    """
    _check(extension)
    chat = replace(extension.chat, add_generation_prompt=extension.open_turn)
    if not extension.num_known:
        ids, _ = await tokenizer.encode_chat(chat, traceparent=traceparent)
        return ChatTokens(ids=ids)
    ids, replaces = await tokenizer.encode_added(
        chat, extension.num_known, is_open=extension.is_open, traceparent=traceparent
    )
    return ChatTokens(ids=ids, replaces=replaces)


def _check(extension: ChatExtension) -> None:
    """Raise InvalidRequestError where the known messages do not go with the chat."""
    messages = _messages(extension.chat.messages_json)
    if extension.num_known > len(messages):
        raise refuse("num_known", extension.num_known, f"an integer from 0 to {len(messages)}, as many as messages")
    known = messages[: extension.num_known]
    if extension.is_open and not (known and isinstance(known[-1], dict) and known[-1].get("role") == "assistant"):
        raise refuse("is_open", True, "false where the last known message is not the assistant's")


def _messages(text: str) -> list[Any]:
    try:
        messages = json.loads(text)
    except (ValueError, RecursionError):
        messages = None
    if not isinstance(messages, list) or not messages:
        raise InvalidRequestError("messages: accepted is a JSON array of at least one message", field="messages")
    return messages
