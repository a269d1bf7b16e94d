"""What servers with OpenAI's API take beyond it, and by which names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from bough.lang.errors import UnsupportedError
from bough.lang.output import Constraint
from bough.lang.sampling import Sampling

_OF_OPENAI = frozenset(
    {
        *("max_tokens", "n", "stop", "temperature", "top_p"),
        *("frequency_penalty", "presence_penalty", "seed", "logprobs"),
    }
)


class Scoring(StrEnum):
    """How a server can be had to score a text."""

    ECHO = "echo"
    """It tells the log probabilities of a prompt's tokens."""
    FORCED = "forced"
    """It tells raw log probabilities of tokens that a constraint has forced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flavour:
    """A kind of server."""

    name: str
    constrain: Callable[[Constraint, bool], Mapping[str, Any] | None]
    """Fields for a constraint, of a chat or not; None where there are none."""
    options: frozenset[str] | None = None
    """Sampling options that it takes; None: all."""
    scoring: Scoring | None = None
    continues_turns: bool = True
    """It goes on with a turn of the assistant that has begun."""
    needs_model: bool = True
    """A call must name the model."""

    def fields(self, sampling: Sampling, constraint: Constraint | None, *, is_chat: bool) -> dict[str, Any]:
        """Fields of a body. UnsupportedError where the server has none for something."""
        fields = sampling.given()
        for name in fields:
            if self.options is not None and name not in self.options:
                raise UnsupportedError(f"{name}: a server of flavour {self.name!r} does not know it", field=name)
        logprobs = fields.pop("logprobs", None)
        if logprobs is not None:
            fields |= {"logprobs": True, "top_logprobs": logprobs} if is_chat else {"logprobs": logprobs}
        if is_chat and self.name == "openai":
            fields["max_completion_tokens"] = fields.pop("max_tokens")
        if constraint is not None:
            constraining = self.constrain(constraint, is_chat)
            if constraining is None:
                where = "chats" if is_chat else "completions"
                kind = constraint.kind
                raise UnsupportedError(f"{kind}: a server of flavour {self.name!r} has none in {where}", field=kind)
            fields |= constraining
        return fields


def _schema_format(constraint: Constraint) -> dict[str, Any]:
    schema = {"name": "output", "schema": json.loads(constraint.source), "strict": True}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def _bough(constraint: Constraint, _: bool) -> dict[str, Any]:
    return _schema_format(constraint) if constraint.kind == "json_schema" else {constraint.kind: constraint.source}


def _vllm(constraint: Constraint, _: bool) -> dict[str, Any]:
    if constraint.kind == "json_schema":
        return {"structured_outputs": {"json": json.loads(constraint.source)}}
    return {"structured_outputs": {"regex" if constraint.kind == "regex" else "grammar": constraint.source}}


def _sglang(constraint: Constraint, is_chat: bool) -> dict[str, Any]:
    if constraint.kind == "json_schema" and is_chat:
        return _schema_format(constraint)
    return {constraint.kind: constraint.source}


def _openai(constraint: Constraint, is_chat: bool) -> dict[str, Any] | None:
    return _schema_format(constraint) if is_chat and constraint.kind == "json_schema" else None


FLAVOURS: Mapping[str, Flavour] = {
    flavour.name: flavour
    for flavour in (
        Flavour(name="bough", constrain=_bough, scoring=Scoring.FORCED, needs_model=False),
        Flavour(name="vllm", constrain=_vllm, scoring=Scoring.ECHO),
        Flavour(name="sglang", constrain=_sglang, scoring=Scoring.ECHO),
        Flavour(name="openai", constrain=_openai, options=_OF_OPENAI, continues_turns=False),
    )
}
