"""Generations in the shapes of OpenAI's API: chunks of a stream, and whole bodies.

A chunk is its sequence's fixed beginning, the text as a JSON string and a fixed end; only chunks that carry more than
text are built field by field.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any, Protocol

from bough.common.sampling import FinishReason
from bough.gateway.receiver import Call, Piece, TokenInfo

DONE = "data: [DONE]\n\n"

_LEAST_LOGPROB = -9999.0
"""Stands for minus infinity, which JSON cannot say."""

_LINE_BREAKS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
"""Many clients take these for the end of a line, in the middle of an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What an answer contains beside its text."""

    model: str
    fingerprint: str
    include_usage: bool = False
    token_ids: bool = False
    echoes: Sequence[str] = ()
    """Texts of the prompts, where they are to be repeated."""


@dataclass(slots=True)
class Choice:
    """One sequence, whole."""

    index: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    logprobs: list[TokenInfo] | None = None
    finish: FinishReason = FinishReason.NONE

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        self.text += piece.text
        self.tokens += piece.tokens
        self.finish = piece.finish
        if piece.logprobs is not None:
            self.logprobs = (self.logprobs or []) + piece.logprobs


class Format(Protocol):
    """How one call is answered."""

    def chunk(self, piece: Piece) -> str:
        """A piece as events of a stream; empty where there is nothing to tell."""

    def new_choice(self, index: int) -> Choice:
        """What the pieces of a sequence are gathered in for `body`."""

    def usage_chunk(self, usage: dict[str, Any]) -> str:
        """The event with the call's usage."""

    def body(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer of a call that is not streamed."""


def usage_of(call: Call) -> dict[str, Any]:
    """Tokens used by a call; a prompt counts once for all its continuations."""
    prompt_tokens = sum(call.num_prompt_tokens)
    completion_tokens = sum(receiver.position for receiver in call.receivers)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": call.num_cached_tokens},
    }


def finish_name(finish: FinishReason) -> str | None:
    """A finish reason as OpenAI's API names it; None where the sequence goes on."""
    if finish is FinishReason.NONE:
        return None
    return "length" if finish is FinishReason.LENGTH else "stop"


class BaseFormat:
    """What all answers have in common."""

    _object = ""
    _chunk_object = ""

    def __init__(self, call: Call, shape: Shape) -> None:
        self._call = call
        self._shape = shape
        self._created = int(time.time())
        self._heads: dict[int, str] = {}
        self._usage_null = ',"usage":null' if shape.include_usage else ""

    def new_choice(self, index: int) -> Choice:
        """What the pieces of a sequence are gathered in for `body`."""
        return Choice(index)

    def usage_chunk(self, usage: dict[str, Any]) -> str:
        """The event with the call's usage."""
        return event_of({**self._envelope(self._chunk_object), "choices": [], "usage": usage})

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self._call.name,
            "object": kind,
            "created": self._created,
            "model": self._shape.model,
            "system_fingerprint": self._shape.fingerprint,
        }

    def _chunk_head(self, index: int, opening: str) -> str:
        envelope = json.dumps(self._envelope(self._chunk_object), separators=(",", ":"))
        return f'data: {envelope[:-1]},"choices":[{{"index":{index},{opening}'

    def _chunk_event(self, choice: dict[str, Any]) -> str:
        event: dict[str, Any] = {**self._envelope(self._chunk_object), "choices": [choice]}
        if self._shape.include_usage:
            event["usage"] = None
        return event_of(event)

    def _prompt_ids(self, index: int) -> list[int]:
        prompts = self._call.prompts
        return list(prompts[index * len(prompts) // len(self._call.receivers)])


class CompletionFormat(BaseFormat):
    """POST /v1/completions."""

    _object = _chunk_object = "text_completion"

    def __init__(self, call: Call, shape: Shape) -> None:
        super().__init__(call, shape)
        self._offsets: dict[int, int] = {}
        self._tail = f',"logprobs":null,"finish_reason":null}}]{self._usage_null}}}\n\n'

    def chunk(self, piece: Piece) -> str:
        """A piece as events of a stream; empty where there is nothing to tell."""
        index, text = piece.index, piece.text
        head = self._heads.get(index)
        first = head is None
        if head is None:
            head = self._heads[index] = self._chunk_head(index, '"text":')
            text = self._echo(index) + text
        if not (piece.finish or piece.logprobs or self._shape.token_ids):
            return f"{head}{quote(text)}{self._tail}" if text else ""
        choice: dict[str, Any] = {
            "index": index,
            "text": text,
            "logprobs": self._logprobs(index, piece.logprobs),
            "finish_reason": finish_name(piece.finish),
        }
        if self._shape.token_ids:
            choice["token_ids"] = piece.tokens
            if first:
                choice["prompt_token_ids"] = self._prompt_ids(index)
        return self._chunk_event(choice)

    def body(self, choices: Sequence[Choice], usage: dict[str, Any]) -> dict[str, Any]:
        """The answer of a call that is not streamed."""
        return {
            **self._envelope(self._object),
            "choices": [self._choice(choice) for choice in choices],
            "usage": usage,
        }

    def _choice(self, choice: Choice) -> dict[str, Any]:
        result: dict[str, Any] = {
            "index": choice.index,
            "text": self._echo(choice.index) + choice.text,
            "logprobs": self._logprobs(choice.index, choice.logprobs),
            "finish_reason": finish_name(choice.finish),
        }
        if self._shape.token_ids:
            result["token_ids"] = choice.tokens
            result["prompt_token_ids"] = self._prompt_ids(choice.index)
        return result

    def _echo(self, index: int) -> str:
        echoes = self._shape.echoes
        return echoes[index * len(echoes) // len(self._call.receivers)] if echoes else ""

    def _logprobs(self, index: int, infos: list[TokenInfo] | None) -> dict[str, Any] | None:
        if infos is None:
            return None
        texts = [text_of(info.data) for info in infos]
        offset, offsets = self._offsets.get(index, 0), []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        self._offsets[index] = offset
        tops = []
        for info, text in zip(infos, texts, strict=True):
            top = {text_of(data): finite(logprob) for _, data, logprob in info.top}
            top.setdefault(text, finite(info.logprob))
            tops.append(top)
        return {
            "tokens": texts,
            "token_logprobs": [finite(info.logprob) for info in infos],
            "top_logprobs": tops,
            "text_offset": offsets,
        }


def text_of(data: bytes) -> str:
    """Bytes of a token as text."""
    return data.decode(errors="replace")


def finite(logprob: float) -> float:
    """A log probability that JSON can say."""
    return max(logprob, _LEAST_LOGPROB)


def event_of(value: dict[str, Any]) -> str:
    """An event of a stream."""
    return f"data: {json.dumps(value, ensure_ascii=False, separators=(',', ':')).translate(_LINE_BREAKS)}\n\n"


def quote(text: str) -> str:
    """A text as JSON within an event."""
    quoted = encode_basestring(text)
    return quoted if quoted.isascii() else quoted.translate(_LINE_BREAKS)
