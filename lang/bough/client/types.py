"""What the API answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Message: TypeAlias = Mapping[str, Any]
"""A turn of a chat, as OpenAI's API has it: `role`, `content`, `tool_calls`, …"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of a call."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    """Of the prompt, those that were computed before."""
    reasoning_tokens: int = 0
    """Of the completion, those of thoughts."""

    @classmethod
    def of(cls, data: Mapping[str, Any] | None) -> Usage:
        """From a body's `usage`."""
        data = data or {}
        return cls(
            prompt_tokens=data.get("prompt_tokens") or 0,
            completion_tokens=data.get("completion_tokens") or 0,
            cached_tokens=(data.get("prompt_tokens_details") or {}).get("cached_tokens") or 0,
            reasoning_tokens=(data.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token, its log probability, and those of the likeliest ones in its place."""

    token: str
    logprob: float
    top: tuple[tuple[str, float], ...] = ()

    @classmethod
    def of_chat(cls, data: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
        """From a chat's `logprobs`."""
        return tuple(
            cls(
                token=entry["token"],
                logprob=entry["logprob"],
                top=tuple((other["token"], other["logprob"]) for other in entry.get("top_logprobs") or ()),
            )
            for entry in (data or {}).get("content") or ()
        )

    @classmethod
    def of_completion(cls, data: Mapping[str, Any] | None) -> tuple[TokenLogprob, ...]:
        """From a completion's `logprobs`; the first token of a prompt has none, and 0 stands for it."""
        if not data:
            return ()
        tokens, logprobs = data.get("tokens") or (), data.get("token_logprobs") or ()
        tops: Sequence[Mapping[str, float] | None] = data.get("top_logprobs") or [None] * len(tokens)
        return tuple(
            cls(token=token, logprob=logprob or 0.0, top=tuple((top or {}).items()))
            for token, logprob, top in zip(tokens, logprobs, tops, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionChoice:
    """One continuation of a prompt."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """Continuations of a prompt, or of several."""

    id: str
    model: str
    choices: tuple[CompletionChoice, ...]
    usage: Usage

    @property
    def text(self) -> str:
        """That of the first one."""
        return self.choices[0].text

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Completion:
        """From a body."""
        choices = tuple(
            CompletionChoice(
                index=choice["index"],
                text=choice["text"],
                finish_reason=choice["finish_reason"],
                logprobs=TokenLogprob.of_completion(choice.get("logprobs")),
            )
            for choice in body["choices"]
        )
        return cls(id=body["id"], model=body["model"], choices=choices, usage=Usage.of(body.get("usage")))


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionDelta:
    """A piece of a stream."""

    index: int = 0
    text: str = ""
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    """With the last piece of a stream."""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> list[CompletionDelta]:
        """From an event of a stream."""
        deltas = [
            cls(
                index=choice["index"],
                text=choice.get("text") or "",
                finish_reason=choice.get("finish_reason"),
                logprobs=TokenLogprob.of_completion(choice.get("logprobs")),
            )
            for choice in event.get("choices") or ()
        ]
        return [*deltas, cls(usage=Usage.of(event["usage"]))] if event.get("usage") else deltas


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """A call of a tool, or in a stream a part of one."""

    index: int
    id: str | None
    name: str | None
    arguments: str
    """The model's text: JSON, where something held the model to it."""

    @classmethod
    def of(cls, calls: Sequence[Mapping[str, Any]] | None) -> tuple[ToolCall, ...]:
        """From `tool_calls`."""
        return tuple(
            cls(
                index=call.get("index", position),
                id=call.get("id"),
                name=call["function"].get("name"),
                arguments=call["function"].get("arguments") or "",
            )
            for position, call in enumerate(calls or ())
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatChoice:
    """One answer."""

    index: int
    message: Message
    """The answer as a turn, to go on with."""
    finish_reason: str | None
    logprobs: tuple[TokenLogprob, ...] = ()

    @property
    def content(self) -> str:
        """The text; empty where there are only calls of tools."""
        return self.message.get("content") or ""

    @property
    def reasoning(self) -> str:
        """What the model thought before."""
        return self.message.get("reasoning_content") or ""

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """Calls of tools."""
        return ToolCall.of(self.message.get("tool_calls"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Chat:
    """Answers to a chat."""

    id: str
    model: str
    choices: tuple[ChatChoice, ...]
    usage: Usage

    @property
    def content(self) -> str:
        """The text of the first answer."""
        return self.choices[0].content

    @property
    def message(self) -> Message:
        """The first answer as a turn, to go on with."""
        return self.choices[0].message

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Chat:
        """From a body."""
        choices = tuple(
            ChatChoice(
                index=choice["index"],
                message=choice["message"],
                finish_reason=choice["finish_reason"],
                logprobs=TokenLogprob.of_chat(choice.get("logprobs")),
            )
            for choice in body["choices"]
        )
        return cls(id=body["id"], model=body["model"], choices=choices, usage=Usage.of(body.get("usage")))


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatDelta:
    """A piece of a stream."""

    index: int = 0
    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    finish_reason: str | None = None
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    """With the last piece of a stream."""

    @classmethod
    def of(cls, event: Mapping[str, Any]) -> list[ChatDelta]:
        """From an event of a stream."""
        deltas = [_chat_delta(choice) for choice in event.get("choices") or ()]
        return [*deltas, cls(usage=Usage.of(event["usage"]))] if event.get("usage") else deltas


def _chat_delta(choice: Mapping[str, Any]) -> ChatDelta:
    delta: Mapping[str, Any] = choice.get("delta") or {}
    return ChatDelta(
        index=choice["index"],
        content=delta.get("content") or "",
        reasoning=delta.get("reasoning_content") or "",
        tool_calls=ToolCall.of(delta.get("tool_calls")),
        finish_reason=choice.get("finish_reason"),
        logprobs=TokenLogprob.of_chat(choice.get("logprobs")),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that is served."""

    id: str
    max_model_len: int | None = None
    """Tokens of its context; None where the server does not say."""

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Model:
        """From its card."""
        return cls(id=body["id"], max_model_len=body.get("max_model_len"))

    @classmethod
    def all_of(cls, body: Mapping[str, Any]) -> list[Model]:
        """From a list of cards."""
        return [cls.of(card) for card in body["data"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokens:
    """A text or a chat as the model gets it."""

    ids: tuple[int, ...] = field(default=())
    max_model_len: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Tokens:
        """From a body."""
        return cls(ids=tuple(body["tokens"]), max_model_len=body["max_model_len"])
