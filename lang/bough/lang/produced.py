"""What a call produces, gathered from its pieces."""

from __future__ import annotations

from bough.client.types import TokenLogprob, Usage
from bough.lang.backends.base import Piece
from bough.lang.variables import Meta


class Produced:
    """The continuations of one call.

    Args:
        count: How many there are.
    """

    def __init__(self, count: int) -> None:
        self._texts: list[list[str]] = [[] for _ in range(count)]
        self._finish = ["stop"] * count
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in range(count)]
        self._usage = Usage()

    def add(self, piece: Piece) -> None:
        """Take a piece in."""
        self._texts[piece.index].append(piece.text)
        self._finish[piece.index] = piece.finish_reason or self._finish[piece.index]
        self._logprobs[piece.index].extend(piece.logprobs)
        self._usage = piece.usage or self._usage

    @property
    def texts(self) -> list[str]:
        """The text of each."""
        return ["".join(texts) for texts in self._texts]

    def meta(self) -> Meta:
        """What is known beside the texts."""
        logprobs = tuple(map(tuple, self._logprobs)) if any(self._logprobs) else ()
        return Meta(finish_reasons=tuple(self._finish), logprobs=logprobs, usage=self._usage)
