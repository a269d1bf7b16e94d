"""What a client asks for, in either API, before defaults are filled in: one type, one place of rules (`rules`)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from bough.common.requests import StateRef
from bough.common.sampling import GrammarKind
from bough.gateway.parsers.spec import ToolSpec


@dataclass(frozen=True, slots=True)
class TextPrompt:
    """Plain text, encoded with what the tokenizer adds by itself."""

    text: str


@dataclass(frozen=True, slots=True)
class IdsPrompt:
    """Token ids, taken as they are."""

    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatPrompt:
    """A chat, rendered by the model's own template. The three texts are JSON; empty stands for absent."""

    messages_json: str
    tools_json: str = ""
    template_kwargs_json: str = ""
    add_generation_prompt: bool = True
    continue_final_message: bool = False


Prompt = TextPrompt | IdsPrompt | ChatPrompt


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """What the output must follow; `field` is the client's name of where it says so."""

    kind: GrammarKind
    text: str
    field: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolUse:
    """Which tools an answer may call, and whether it must."""

    tools: tuple[ToolSpec, ...]
    required: bool = False
    """The answer consists of calls."""
    named: bool = False
    """The client named the one tool that is called."""
    parallel: bool = True
    """There may be more than one call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingOptions:
    """Sampling parameters as the client gave them; None where it was silent."""

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
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop: bool = False
    skip_special_tokens: bool = True
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    top_logprobs: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """A state of a program that is gone on from."""

    ref: StateRef
    length: int
    """Its tokens."""
    tail: tuple[int, ...]
    """Its last tokens, at most 16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationRequest:
    """One client call: prompts, continuations of each, and how they are made."""

    prompts: tuple[Prompt, ...]
    model: str = ""
    """Served name; empty takes the one there is."""
    n: int = 1
    """Continuations of each prompt."""
    options: SamplingOptions = field(default_factory=SamplingOptions)
    constraint: Constraint | None = None
    tools: ToolUse | None = None
    """None: what the model writes of tools stays text."""
    separate_reasoning: bool = False
    """Whether thoughts are told from the answer."""
    thinking_budget: int | None = None
    """Tokens of thoughts at most."""
    cache_salt: str = ""
    base: Base | None = None
    """What the prompts continue; None: nothing."""
    default_max_tokens: int | None = None
    """Tokens at most where the client is silent; None: what is left of the context."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Names of fields in this API where they differ from those of the options; used in error messages."""

    @property
    def num_sequences(self) -> int:
        """Sequences that the call asks for."""
        return len(self.prompts) * self.n
