"""How `select` picks: from the log probabilities of each choice's tokens, the choice that is taken."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class ChoicesMethod(StrEnum):
    """By what a choice wins."""

    TOKEN_LENGTH_NORMALIZED = "token_length_normalized"
    """The highest mean log probability of its tokens."""
    GREEDY_TOKEN_SELECTION = "greedy_token_selection"
    """Token by token the likeliest; a choice that is shorter goes on with its mean."""
    UNCONDITIONAL_LIKELIHOOD_NORMALIZED = "unconditional_likelihood_normalized"
    """The highest mean of log probabilities less those of the same text with nothing before it."""


token_length_normalized = ChoicesMethod.TOKEN_LENGTH_NORMALIZED
greedy_token_selection = ChoicesMethod.GREEDY_TOKEN_SELECTION
unconditional_likelihood_normalized = ChoicesMethod.UNCONDITIONAL_LIKELIHOOD_NORMALIZED


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceLogprobs:
    """What a backend says of one choice."""

    tokens: tuple[str, ...]
    """Its tokens, in any writing that tells them apart."""
    logprobs: tuple[float, ...]
    """Of each token, behind the state and the tokens before."""
    unconditional: tuple[float, ...] = ()
    """The same with nothing before the choice; only where asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChoiceScore:
    """A choice and how it did."""

    choice: str
    score: float
    """The number that is compared; of greedy selection, the mean log probability."""
    logprobs: ChoiceLogprobs


def decide(choices: Sequence[str], found: Sequence[ChoiceLogprobs], method: ChoicesMethod) -> list[ChoiceScore]:
    """The choices with their scores, best first; equal ones in their own order."""
    if method is ChoicesMethod.UNCONDITIONAL_LIKELIHOOD_NORMALIZED:
        # The mean of each, since a text may be cut into tokens differently where nothing comes before it.
        scores = [_mean(entry.logprobs) - _mean(entry.unconditional) for entry in found]
    else:
        scores = [_mean(entry.logprobs) for entry in found]
    order = sorted(range(len(found)), key=lambda i: -scores[i])
    if method is ChoicesMethod.GREEDY_TOKEN_SELECTION:
        best = _greedy(found)
        order.remove(best)
        order.insert(0, best)
    return [ChoiceScore(choice=choices[i], score=scores[i], logprobs=found[i]) for i in order]


def _greedy(found: Sequence[ChoiceLogprobs]) -> int:
    """The choice that is left when at each token only those stay that begin with the likeliest one."""
    left = list(range(len(found)))
    for position in range(max(len(entry.tokens) for entry in found)):
        best = max(left, key=lambda i: _padded(found[i], position))
        # Compared by token: log probabilities of the same token need not be the same number in two rows of a batch.
        left = [i for i in left if i == best or _same_token(found[i], found[best], position)]
        if len(left) == 1:
            break
    return left[0]


def _padded(entry: ChoiceLogprobs, position: int) -> float:
    return entry.logprobs[position] if position < len(entry.logprobs) else _mean(entry.logprobs)


def _same_token(one: ChoiceLogprobs, other: ChoiceLogprobs, position: int) -> bool:
    return one.tokens[position : position + 1] == other.tokens[position : position + 1] != ()


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
