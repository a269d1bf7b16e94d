"""Which token ids of an output become part of its state, so that the state is the text that the client was told."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from bough.common.sampling import FinishReason
from bough.gateway.generate import Output

DecodeAll = Callable[[Sequence[Sequence[int]]], Awaitable[list[str]]]
"""Texts of lists of token ids."""

Encode = Callable[[str], Awaitable[tuple[int, ...]]]

_CONTEXT = 16
"""Tokens before a token that may decide how its text begins."""

_SPARE = 8
_MAX_LOOKS = 64
"""Places within an output that are looked at; where there are more, every second is, or fewer."""


async def kept_ids(
    output: Output,
    *,
    tail: Sequence[int],
    include_stop: bool,
    eos: Collection[int],
    decode: DecodeAll,
    encode: Encode,
) -> tuple[int, ...]:
    """The ids that count.

    All, but for the token that ended the output: it stays only where the client wants it in the text and it is no
    end-of-sequence token. Where a stop string ended it, all tokens before the end of the text, and the text that is
    left then, encoded again.

    Args:
        output: A whole output.
        tail: Last tokens of the state it continues.
        include_stop: The client wants to see what ended the output.
        eos: The model's end-of-sequence ids.
        decode: Makes text of ids, as the output's text was made.
        encode: Makes ids of text, with nothing added.
    """
    tokens = tuple(output.tokens)
    if output.finish is FinishReason.STOP and tokens:
        return tokens if include_stop and tokens[-1] not in eos else tokens[:-1]
    if output.finish is not FinishReason.STOP_STRING:
        return tokens
    split = await _split(tokens, tail, output.stop_string, include_stop=include_stop, decode=decode)
    # Not found where the text is not what decoding all at once gives: the end of broken characters.
    kept, rest = split or ((), output.text)
    return kept + await encode(rest) if rest else kept


async def _split(
    tokens: tuple[int, ...], tail: Sequence[int], stop: str, *, include_stop: bool, decode: DecodeAll
) -> tuple[tuple[int, ...], str] | None:
    """Tokens wholly before the end of the text, and the text behind them; None where the stop string is not found.

    Only the end of the output is decoded: a stop string has at most as many tokens as characters, or about so, since
    some tokens have no text. Twice as much is looked at until it is enough.
    """
    window = len(stop) + _SPARE
    while True:
        start = max(0, len(tokens) - window)
        context = (*tail, *tokens[:start])[-_CONTEXT:]
        step = -(-window // _MAX_LOOKS)
        ends = [*range(start, len(tokens), step), len(tokens)]
        texts = await decode([[*context, *tokens[start:end]] for end in ends])
        # The context may end within a character that the output finishes: it belongs to the output.
        begin, whole = _common_length(texts[0], texts[-1]), texts[-1]
        at = whole.find(stop, begin)
        if at >= 0:
            end_of_text = at + len(stop) if include_stop else at
            fits = [i for i, t in enumerate(texts) if len(t) <= end_of_text and whole.startswith(t)]
            if fits and (fits[-1] > 0 or start == 0):
                return tokens[: ends[fits[-1]]], whole[len(texts[fits[-1]]) : end_of_text]
            if start == 0:
                return (), whole[begin:end_of_text]
        if start == 0:
            return None
        window *= 2


def _common_length(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    differences = (i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(differences, min(len(one), len(other)))
