"""How a model call is to be sampled: options as a program writes them, and as a backend gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, TypedDict

from bough.common.config import nearest
from bough.lang.errors import ExpressionError

MAX_TOKENS = 128
"""Tokens of a call where neither `gen` nor the run says anything."""


class SamplingArguments(TypedDict, total=False):
    """Sampling options by name, for `gen` and as defaults of a run. What is left out is up to the server."""

    max_tokens: int
    min_tokens: int
    n: int
    stop: str | Sequence[str]
    stop_token_ids: Sequence[int]
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    frequency_penalty: float
    presence_penalty: float
    repetition_penalty: float
    seed: int
    ignore_eos: bool
    logprobs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """Sampling options; None where nothing is said."""

    max_tokens: int | None = None
    min_tokens: int | None = None
    n: int | None = None
    """Continuations; with more than one the variable is a list and the state stays as it is."""
    stop: tuple[str, ...] | None = None
    """The text ends before the first of these."""
    stop_token_ids: tuple[int, ...] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    ignore_eos: bool | None = None
    logprobs: int | None = None
    """So many likeliest tokens are told at each position, beside the one that was taken; 0: only that one."""

    @classmethod
    def of(cls, arguments: Mapping[str, Any], what: str) -> Sampling:
        """From options by name.

        Args:
            arguments: The options.
            what: Whose they are, for the error.

        Raises:
            ExpressionError: A name is none of an option.
        """
        known = option_names()
        for name in arguments:
            if name not in known:
                raise ExpressionError(f"{what}: {name} is no option{nearest(name, known)}", field=name)
        values = {name: value for name, value in arguments.items() if value is not None}
        if "stop" in values:
            stop = values["stop"]
            values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
        if "stop_token_ids" in values:
            values["stop_token_ids"] = tuple(values["stop_token_ids"])
        return cls(**values)

    def given(self) -> dict[str, Any]:
        """The options that say something."""
        values = ((name, getattr(self, name)) for name in option_names())
        return {name: value for name, value in values if value is not None}

    def over(self, defaults: Sampling) -> Sampling:
        """These options, and those of `defaults` where these say nothing."""
        return replace(defaults, **self.given())

    @property
    def is_single(self) -> bool:
        """One continuation, which becomes part of the state."""
        return self.n is None or self.n == 1


def option_names() -> tuple[str, ...]:
    """Names of all sampling options."""
    return tuple(field.name for field in fields(Sampling))
