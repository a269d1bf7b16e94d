"""What is sent: paths and bodies, and the options that they take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypedDict

from bough.client.types import Message

Prompt: TypeAlias = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]]
"""A text, texts, token ids, or lists of token ids."""

Messages: TypeAlias = str | Sequence[Message]
"""A chat; a string is a turn of the user."""


class GenerationOptions(TypedDict, total=False):
    """What completions and chats take, as docs/api.md explains it; what is left out is up to the server."""

    n: int
    max_tokens: int
    min_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    ignore_eos: bool
    include_stop_str_in_output: bool
    skip_special_tokens: bool
    logit_bias: Mapping[str, float]
    response_format: Mapping[str, Any]
    regex: str
    ebnf: str
    choice: Sequence[str]
    structural_tag: Mapping[str, Any]
    cache_salt: str


class CompletionOptions(GenerationOptions, total=False):
    """What completions take."""

    echo: bool
    logprobs: int


class ChatOptions(GenerationOptions, total=False):
    """What chats take."""

    logprobs: bool
    top_logprobs: int
    tools: Sequence[Mapping[str, Any]]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    reasoning_effort: str
    separate_reasoning: bool
    thinking_budget: int
    add_generation_prompt: bool
    continue_final_message: bool
    chat_template_kwargs: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request."""

    method: str = "POST"
    path: str
    body: Mapping[str, Any] | None = None
    is_repeated: bool = True
    """It is made again where the server did not take it."""

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


HEALTH = Call(method="GET", path="/health", is_repeated=False)
READY = Call(method="GET", path="/ready", is_repeated=False)
MODELS = Call(method="GET", path="/v1/models")


def completion(prompt: Prompt, model: str | None, options: Mapping[str, Any], *, stream: bool = False) -> Call:
    """A completion."""
    return Call(path="/v1/completions", body=_body({"prompt": prompt}, model, options, stream=stream))


def chat(messages: Messages, model: str | None, options: Mapping[str, Any], *, stream: bool = False) -> Call:
    """A chat."""
    return Call(path="/v1/chat/completions", body=_body({"messages": turns(messages)}, model, options, stream=stream))


def tokenize(prompt: Messages) -> Call:
    """The tokens of a text, or of a chat in the model's template."""
    body = {"prompt": prompt} if isinstance(prompt, str) else {"messages": list(prompt)}
    return Call(path="/v1/tokenize", body=body)


def detokenize(ids: Sequence[int]) -> Call:
    """The text of tokens."""
    return Call(path="/v1/detokenize", body={"tokens": list(ids)})


def text_of(body: Mapping[str, Any]) -> str:
    """The text in the answer to `detokenize`."""
    text: str = body["prompt"]
    return text


def turns(messages: Messages) -> list[Message]:
    """A chat as a list."""
    return [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)


def _body(
    prompt: Mapping[str, Any], model: str | None, options: Mapping[str, Any], *, stream: bool
) -> Mapping[str, Any]:
    body = {**prompt, **{name: value for name, value in options.items() if value is not None}}
    if model is not None:
        body["model"] = model
    return {**body, "stream": True, "stream_options": {"include_usage": True}} if stream else body
