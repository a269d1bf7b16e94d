"""The bodies that the REST API takes, field by field as OpenAI's API, vLLM and SGLang name them.

Types are strict: `"1"` is no number and `true` no integer. Unknown fields are refused, since a mistyped name that is
silently ignored costs its user more. Limits of values are in `rules`, for both APIs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from bough.common.errors import InvalidRequestError
from bough.gateway.errors import refuse
from bough.gateway.rules import ACCEPTED


class Body(BaseModel):
    """What all bodies have in common."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class RefusedValue(ValueError):
    """Carries an error through pydantic, which lets only ValueErrors of validators through."""

    def __init__(self, error: InvalidRequestError) -> None:
        super().__init__(str(error))
        self.error = error


def _refuse_unless_none(name: str, accepted: str) -> BeforeValidator:
    def check(value: Any) -> None:
        if value is not None:
            raise RefusedValue(refuse(name, value, accepted))

    return BeforeValidator(check)


class StreamOptions(Body):
    """How a stream is sent."""

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class JsonSchema(Body):
    """A named JSON schema. `strict` changes nothing: the schema always holds."""

    name: str | None = None
    description: str | None = None
    json_schema: Any = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """What the output must be. A structural tag has a format, or structures and triggers: the older form."""

    type: Literal["text", "json_object", "json_schema", "structural_tag"]
    json_schema: JsonSchema | None = None
    format: dict[str, Any] | None = None
    structures: list[dict[str, Any]] | None = None
    triggers: list[str] | None = None


class TriggeredStructures(Body):
    """The older form of structural tags: after a trigger the output follows the structure that begins with it."""

    class Structure(Body):
        """A JSON schema between two texts."""

        begin: str
        json_schema: dict[str, Any] = Field(alias="schema")
        end: str

    structures: list[Structure] = Field(min_length=1)
    triggers: list[str] = Field(min_length=1)


class StructuredOutputs(Body):
    """vLLM's way to say what the output must be."""

    schema_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None

    def asked(self) -> dict[str, Any]:
        """What is set, by the client's names."""
        return self.model_dump(by_alias=True, exclude_none=True)


CONSTRAINTS = (
    *("regex", "ebnf", "choice", "structural_tag"),
    *("guided_json", "guided_regex", "guided_choice", "guided_grammar"),
)
"""Fields of a body that constrain the output by themselves."""


class GenerationBody(Body):
    """What completions and chats have in common."""

    model: str | None = None
    n: int | None = None
    max_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool | None = None
    include_stop_str_in_output: bool | None = None
    skip_special_tokens: bool | None = None
    logit_bias: dict[str, float] | None = None
    response_format: ResponseFormat | None = None
    regex: str | None = None
    ebnf: str | None = None
    choice: list[str] | None = None
    structural_tag: dict[str, Any] | str | None = None
    structured_outputs: StructuredOutputs | None = None
    # What vLLM called these before.
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    cache_salt: str | None = Field(None, max_length=1024)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    return_token_ids: bool | None = None
    # Taken and not used: they concern OpenAI's own platform.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_options: Any = None
    prompt_cache_retention: str | None = None
    moderation: Any = None

    def constraints(self) -> dict[str, Any]:
        """Fields that constrain the output by themselves, with their values."""
        return {name: getattr(self, name) for name in CONSTRAINTS}


class CompletionOptions(GenerationBody):
    """How plain text is continued."""

    logprobs: int | None = None


class CompletionBody(CompletionOptions):
    """The body of POST /v1/completions."""

    prompt: Any
    best_of: int | None = None
    echo: bool | None = None
    suffix: Annotated[None, _refuse_unless_none("suffix", "null: inserting text is not supported")] = None


class Tool(Body):
    """A tool that the model may call."""

    type: Literal["function"]
    function: dict[str, Any]


class ChatBody(GenerationBody):
    """The body of POST /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[Tool] | None = None
    tool_choice: str | dict[str, Any] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    separate_reasoning: bool | None = None
    thinking_budget: int | None = None
    max_thinking_tokens: int | None = None
    parallel_tool_calls: bool | None = None
    prediction: Any = None
    verbosity: str | None = None
    modalities: list[Literal["text"]] | None = None
    audio: Annotated[None, _refuse_unless_none("audio", "null: only text is served")] = None
    web_search_options: Annotated[None, _refuse_unless_none("web_search_options", "null")] = None
    functions: Annotated[None, _refuse_unless_none("functions", "null: use tools")] = None
    function_call: Annotated[None, _refuse_unless_none("function_call", "null: use tool_choice")] = None


class TokenizeBody(Body):
    """The body of POST /v1/tokenize: a text or a chat."""

    model: str | None = None
    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    add_special_tokens: bool | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    tools: list[Tool] | None = None


class DetokenizeBody(Body):
    """The body of POST /v1/detokenize."""

    model: str | None = None
    tokens: list[int]
    skip_special_tokens: bool | None = None


def logit_bias_ids(logit_bias: Mapping[str, float]) -> dict[int, float]:
    """The keys of logit_bias as numbers."""
    try:
        return {int(key): value for key, value in logit_bias.items() if _plain(key)}
    except ValueError:
        raise refuse("logit_bias", dict(logit_bias), ACCEPTED["logit_bias"]) from None


def _plain(key: str) -> bool:
    # int() also takes "1_0", " 1" and digits of other scripts.
    if not (key.isascii() and key.isdigit() and len(key) < 12):
        raise ValueError(key)
    return True
