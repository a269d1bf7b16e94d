"""Log probabilities of texts, from servers that have no call for it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, TypeAlias

from bough.client.calls import Call
from bough.client.errors import AnswerError
from bough.client.transport import AsyncTransport
from bough.client.types import TokenLogprob
from bough.lang.backends.base import Selection
from bough.lang.choices import ChoiceLogprobs

_Scored: TypeAlias = Sequence[tuple[str, float | None]]
"""Tokens and their log probabilities; None for a token with nothing before it."""

_SPARE_TOKENS = 8


async def echoed(transport: AsyncTransport, call: Call, selection: Selection) -> list[ChoiceLogprobs]:
    """From a server that tells the log probabilities of a prompt's tokens: all choices in one call.

    The tokens of a choice are those that prompt and choice together do not share with the prompt alone. So a token that
    spans the end of the prompt counts for the choice.
    """
    body = dict(call.body or {})
    prompt: str = body["prompt"]
    prompts = [*([prompt] if prompt else []), *(prompt + choice for choice in selection.choices)]
    if selection.unconditional:
        prompts += selection.choices
    body |= {"prompt": prompts, "echo": True, "logprobs": 1, "max_tokens": 0, "temperature": 0}
    scored = await transport.send(replace(call, body=body), _scored)
    if len(scored) != len(prompts):
        raise AnswerError(f"{call}: got {len(scored)} choices for {len(prompts)} prompts")
    alone: _Scored = scored.pop(0) if prompt else ()
    count = len(selection.choices)
    behind = [_known(entry[_num_shared(alone, entry) :]) for entry in scored[:count]]
    unconditional = [tuple(logprob for _, logprob in _known(entry)) for entry in scored[count:]] or [()] * count
    return [
        ChoiceLogprobs(
            tokens=tuple(token for token, _ in entry),
            logprobs=tuple(logprob for _, logprob in entry),
            unconditional=base,
        )
        for entry, base in zip(behind, unconditional, strict=True)
    ]


async def forced(transport: AsyncTransport, call: Call, selection: Selection) -> list[ChoiceLogprobs]:
    """From a server that tells raw log probabilities of constrained tokens: a call for each choice, held to it.

    Among the ways to cut a choice into tokens, the model takes at each token the one that is likeliest.
    """
    is_chat = "messages" in (call.body or {})

    async def score(choice: str) -> ChoiceLogprobs:
        wanted = {"choice": [choice], "temperature": 0, "max_tokens": len(choice.encode()) + _SPARE_TOKENS}
        logprobs: dict[str, Any] = {"logprobs": True, "top_logprobs": 0} if is_chat else {"logprobs": 0}
        body = {**(call.body or {}), **wanted, **logprobs}
        tokens = await transport.send(replace(call, body=body), _chat_tokens if is_chat else _tokens)
        return _without_end(call, tokens, choice)

    return list(await asyncio.gather(*map(score, selection.choices)))


def _without_end(call: Call, tokens: Sequence[TokenLogprob], choice: str) -> ChoiceLogprobs:
    """The tokens of the choice: all but the one that ends the text, where it is told too."""
    is_whole = "".join(token.token for token in tokens) == choice
    taken = tokens if is_whole else tokens[:-1]
    if not taken:
        raise AnswerError(f"{call}: got no log probabilities for {choice!r}")
    return ChoiceLogprobs(
        tokens=tuple(token.token for token in taken), logprobs=tuple(token.logprob for token in taken)
    )


def _scored(body: Mapping[str, Any]) -> list[_Scored]:
    choices = sorted(body["choices"], key=lambda choice: int(choice["index"]))
    found = (choice["logprobs"] for choice in choices)
    return [list(zip(entry["tokens"], entry["token_logprobs"], strict=True)) for entry in found]


def _known(entry: _Scored) -> list[tuple[str, float]]:
    return [(token, logprob) for token, logprob in entry if logprob is not None]


def _num_shared(one: _Scored, other: _Scored) -> int:
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0][0] == pair[1][0], pairs))


def _tokens(body: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    return TokenLogprob.of_completion(body["choices"][0]["logprobs"])


def _chat_tokens(body: Mapping[str, Any]) -> tuple[TokenLogprob, ...]:
    return TokenLogprob.of_chat(body["choices"][0]["logprobs"])
