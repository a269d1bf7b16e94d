"""Chats in the shape of OpenAI's API: as the model's text is, and read as thoughts, answer and tool calls."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from bough.gateway.formats import BaseFormat, Choice, Shape, finish_name, finite, quote, text_of
from bough.gateway.parsed import Reader, Reading, call_deltas
from bough.gateway.parsers.base import CallDelta
from bough.gateway.receiver import Call, Piece, TokenInfo


class ChatFormat(BaseFormat):
    """POST /v1/chat/completions."""

    _object = "chat.completion"
    _chunk_object = "chat.completion.chunk"

    def __init__(self, call: Call, shape: Shape) -> None:
        super().__init__(call, shape)
        self._tail = f'}},"logprobs":null,"finish_reason":null}}]{self._usage_null}}}\n\n'

    def chunk(self, piece: Piece) -> str:
        """A piece as events of a stream: the role at first, the finish reason at last; empty without news."""
        index = piece.index
        head = self._heads.get(index)
        if head is not None and not (piece.finish or piece.logprobs or self._shape.token_ids):
            return f"{head}{quote(piece.text)}{self._tail}" if piece.text else ""
        events = ""
        if head is None:
            head = self._heads[index] = self._chunk_head(index, '"delta":{"content":')
            events = self._opening(index)
        if piece.logprobs or self._shape.token_ids:
            choice: dict[str, Any] = {
                "index": index,
                "delta": {"content": piece.text},
                "logprobs": _chat_logprobs(piece.logprobs),
                "finish_reason": None,
            }
            if self._shape.token_ids:
                choice["token_ids"] = piece.tokens
            events += self._chunk_event(choice)
        elif piece.text:
            events += f"{head}{quote(piece.text)}{self._tail}"
        if piece.finish:
            choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_name(piece.finish)}
            events += self._chunk_event(choice)
        return events

    def body(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer of a call that is not streamed."""
        result = {
            **self._envelope(self._object),
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage,
        }
        if self._shape.token_ids:
            result["prompt_token_ids"] = self._prompt_ids(0)
        return result

    def _opening(self, index: int) -> str:
        return self._opening_with(index, "")

    def _opening_with(self, index: int, content: str | None) -> str:
        delta = {"role": "assistant", "content": content}
        choice: dict[str, Any] = {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
        if self._shape.token_ids:
            choice["prompt_token_ids"] = self._prompt_ids(index)
        return self._chunk_event(choice)

    def _choice(self, choice: Choice) -> dict[str, Any]:
        result: dict[str, Any] = {
            "index": choice.index,
            "message": self._message(choice),
            "logprobs": _chat_logprobs(choice.logprobs),
            "finish_reason": self._finish(choice),
        }
        if self._shape.token_ids:
            result["token_ids"] = choice.tokens
        return result

    def _message(self, choice: Choice) -> dict[str, Any]:
        return {"role": "assistant", "content": choice.text, "refusal": None}

    def _finish(self, choice: Choice) -> str | None:
        return finish_name(choice.finish)


class ParsedChoice(Choice):
    """One sequence, whole, read on the way."""

    def __init__(self, index: int, reader: Reader) -> None:
        super().__init__(index)
        self.reader = reader
        self.content = ""
        self.reasoning = ""
        self.calls: list[dict[str, Any]] = []

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        super().add(piece)
        delta = self.reader.read(piece)
        self.content += delta.content
        self.reasoning += delta.reasoning
        for call in call_deltas(delta.calls):
            if call.name is not None:
                self.calls.append(_opened(call.name))
            else:
                self.calls[-1]["function"]["arguments"] += call.arguments

    @property
    def message(self) -> dict[str, Any]:
        """The message that came of it."""
        nothing_said = not self.content and (self.calls or self.reasoning)
        message: dict[str, Any] = {"role": "assistant", "content": None if nothing_said else self.content}
        message["refusal"] = None
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        return message


class ParsedChatFormat(ChatFormat):
    """POST /v1/chat/completions, where the text holds more than the answer."""

    def __init__(self, call: Call, shape: Shape, reading: Reading) -> None:
        super().__init__(call, shape)
        self._reading = reading
        self._readers: dict[int, Reader] = {}

    def chunk(self, piece: Piece) -> str:
        """A piece as events of a stream: each carries thoughts, answer or a part of one call."""
        index, events = piece.index, ""
        reader = self._readers.get(index)
        if reader is None:
            reader = self._new_reader(index)
            self._heads[index] = self._chunk_head(index, '"delta":{')
            events = self._opening(index)
        delta = reader.read(piece)
        if piece.logprobs or self._shape.token_ids:
            events += self._with_tokens(piece, _deltas(delta.reasoning, delta.content, delta.calls))
        else:
            head = self._heads[index]
            if delta.reasoning:
                events += f'{head}"reasoning_content":{quote(delta.reasoning)}{self._tail}'
            if delta.content:
                events += f'{head}"content":{quote(delta.content)}{self._tail}'
            for call in call_deltas(delta.calls):
                if call.name is None:
                    arguments = f'{{"arguments":{quote(call.arguments)}}}'
                    events += f'{head}"tool_calls":[{{"index":{call.index},"function":{arguments}}}]{self._tail}'
                else:
                    fields = {"tool_calls": [{"index": call.index, **_opened(call.name)}]}
                    events += self._delta_event(index, fields)
        if piece.finish:
            finish = reader.finish_name(piece.finish)
            choice = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish}
            events += self._chunk_event(choice)
        return events

    def new_choice(self, index: int) -> Choice:
        """What the pieces of a sequence are gathered in for `body`."""
        return ParsedChoice(index, self._new_reader(index))

    def usage_chunk(self, usage: dict[str, Any]) -> str:
        """The event with the call's usage."""
        return super().usage_chunk(self._with_details(usage))

    def body(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer of a call that is not streamed."""
        return super().body(choices, self._with_details(usage))

    def _new_reader(self, index: int) -> Reader:
        reader = self._readers[index] = self._reading.reader()
        return reader

    def _with_details(self, usage: dict[str, Any]) -> dict[str, Any]:
        if self._reading.reasoning is None:
            return usage
        tokens = sum(reader.reasoning_tokens for reader in self._readers.values())
        return {**usage, "completion_tokens_details": {"reasoning_tokens": tokens}}

    def _opening(self, index: int) -> str:
        # Null, not empty: whether there is any content shows later.
        return self._opening_with(index, None)

    def _with_tokens(self, piece: Piece, deltas: list[dict[str, Any]]) -> str:
        """Events whose first carries ids and log probabilities, with an empty delta where the piece brings no other."""
        events = ""
        for i, fields in enumerate(deltas or [{}]):
            choice: dict[str, Any] = {
                "index": piece.index,
                "delta": fields,
                "logprobs": _chat_logprobs(piece.logprobs) if i == 0 else None,
                "finish_reason": None,
            }
            if self._shape.token_ids:
                choice["token_ids"] = piece.tokens if i == 0 else []
            events += self._chunk_event(choice)
        return events

    def _delta_event(self, index: int, fields: dict[str, Any]) -> str:
        return self._chunk_event({"index": index, "delta": fields, "logprobs": None, "finish_reason": None})

    def _message(self, choice: Choice) -> dict[str, Any]:
        return choice.message if isinstance(choice, ParsedChoice) else super()._message(choice)

    def _finish(self, choice: Choice) -> str | None:
        return self._readers[choice.index].finish_name(choice.finish)


def _deltas(reasoning: str, content: str, calls: tuple[CallDelta, ...]) -> list[dict[str, Any]]:
    """What a piece brought as deltas of OpenAI's API. Clients differ in what they make of several calls in one."""
    deltas: list[dict[str, Any]] = []
    if reasoning:
        deltas.append({"reasoning_content": reasoning})
    if content:
        deltas.append({"content": content})
    for call in call_deltas(calls):
        opened = {"function": {"arguments": call.arguments}} if call.name is None else _opened(call.name)
        deltas.append({"tool_calls": [{"index": call.index, **opened}]})
    return deltas


def _opened(name: str) -> dict[str, Any]:
    """A call of which nothing is known but its tool."""
    call_id = f"call_{secrets.token_hex(12)}"
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": ""}}


def _chat_logprobs(infos: list[TokenInfo] | None) -> dict[str, Any] | None:
    if infos is None:
        return None
    return {
        "content": [
            {
                **_chat_logprob(info.data, info.logprob),
                "top_logprobs": [_chat_logprob(data, logprob) for _, data, logprob in info.top],
            }
            for info in infos
        ],
        "refusal": None,
    }


def _chat_logprob(data: bytes, logprob: float) -> dict[str, Any]:
    return {"token": text_of(data), "logprob": finite(logprob), "bytes": list(data)}
