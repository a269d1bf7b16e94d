"""How tokens are chosen for a request, and why a request ended: the types every service speaks."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

MAX_TOP_LOGPROBS = 20
MAX_STOP_STRINGS = 32
MAX_SIBLINGS = 128
TOP_K_ALL = 0
"""`top_k` value that keeps the whole vocabulary."""


class FinishReason(IntEnum):
    """Why a sequence ended; NONE means that it has not. Values are those of the wire."""

    NONE = 0
    STOP = 1
    """An end-of-sequence or stop token id was produced."""
    STOP_STRING = 2
    """The detokenizer found a stop string."""
    LENGTH = 3
    """`max_tokens` or the model's context length was reached."""
    CANCELLED = 4
    """The client went away or cancelled."""
    ERROR = 5
    """The sequence failed; an error message goes with it."""


class GrammarKind(IntEnum):
    """What the text of a grammar is written in. Values are those of the wire."""

    JSON_SCHEMA = 1
    REGEX = 2
    JSON_OBJECT = 3
    """Any JSON object; the text is empty."""
    EBNF = 4
    """Extended Backus-Naur form as xgrammar reads it; the output follows the rule `root`."""
    CHOICE = 5
    """A JSON list of strings, one of which is the whole output."""
    STRUCTURAL_TAG = 6
    """xgrammar's structural tags in JSON: free text, and after certain words what follows a grammar of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A constraint on the output: its source and the 32-byte key under which its compiled form is known."""

    key: bytes
    kind: GrammarKind
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reasoning:
    """The part of an output in which the model thinks; a grammar applies to what comes after it."""

    end: str
    """Text that ends it, such as `</think>`; not empty."""
    max_tokens: int | None = None
    """Tokens that it may have; None: no bound of its own."""
    closing_ids: tuple[int, ...] = ()
    """Ids that are produced in place of the model's own when it has had `max_tokens`; they end with the text `end`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """The parameters of one request, already validated by the gateway; defaults are neutral.

    `temperature == 0` means greedy. `seed` is always set: the gateway draws one where the client gave none,
    so that noise is a function of (seed, position) and a resumed request repeats itself exactly.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = TOP_K_ALL
    min_p: float = 0.0
    seed: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    min_tokens: int = 0
    max_tokens: int = 16
    stop_token_ids: tuple[int, ...] = ()
    """Ids that end the sequence besides the model's own end-of-sequence ids."""
    ignore_eos: bool = False
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, value added to its logit), sorted by id."""
    top_logprobs: int | None = None
    """None: no log probabilities; k: that of the sampled token and of the k likeliest (0 <= k <= 20)."""
    grammar: Grammar | None = None
    reasoning: Reasoning | None = None
    """None: a grammar applies from the first token on."""
    forced_ids: tuple[int, ...] = ()
    """Not empty: the output is exactly these; it ends with LENGTH behind the last, so nothing else may end it before.

    `max_tokens` is their number, `ignore_eos` is set, there are no `stop_token_ids`, no grammar and no reasoning.
    """

    @property
    def needs_matcher(self) -> bool:
        """What may follow depends on the tokens before."""
        bounded = self.reasoning is not None and self.reasoning.max_tokens is not None
        return bounded or self.grammar is not None or bool(self.forced_ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextOptions:
    """What the detokenizer must know of a request."""

    stop: tuple[str, ...] = ()
    include_stop: bool = False
    """Leave the stop string (or the text of the stop token) at the end of the text."""
    skip_special_tokens: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprobs:
    """Log probabilities at one position, from the model's raw logits (before temperature, penalties and masks)."""

    logprob: float
    rank: int
    """1 for the likeliest token."""
    top_ids: tuple[int, ...] = ()
    top_logprobs: tuple[float, ...] = field(default=())
