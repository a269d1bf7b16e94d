"""When what a model produces is told: as it comes, now and then, or once it has ended."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from bough.gateway.programs.actions import Generate
from bough.gateway.receiver import Piece

Tell = Callable[[Piece], Awaitable[None] | None]
"""Tells the client of a piece. What it returns is waited for before there are more; None is: go on."""


class Pieces:
    """Gathers the pieces of a call until it is time to tell them.

    Args:
        action: Says when that is.
        tell: Tells the client of a piece.
    """

    def __init__(self, action: Generate, tell: Tell) -> None:
        self._is_whole = action.whole
        self._pause_s = action.pause_s
        self._tell = tell
        self._now = asyncio.get_running_loop().time
        self._held: dict[int, Piece] = {}
        self._due_s: dict[int, float] = {}

    def take(self, pieces: list[Piece]) -> Awaitable[None] | None:
        """Take pieces in. What is returned is to be waited for before there are more: the client reads slowly."""
        pause: Awaitable[None] | None = None
        for piece in pieces:
            piece = self._with_held(piece)
            if piece.finish or self._is_due(piece.index):
                pause = self._tell(piece)
            else:
                self._held[piece.index] = piece
        return pause

    def _is_due(self, index: int) -> bool:
        if self._is_whole:
            return False
        if self._pause_s:
            now = self._now()
            if now < self._due_s.get(index, 0.0):
                return False
            self._due_s[index] = now + self._pause_s
        return True

    def _with_held(self, piece: Piece) -> Piece:
        held = self._held.pop(piece.index, None)
        if held is not None:
            piece.text = held.text + piece.text
            piece.tokens = held.tokens + piece.tokens
            if held.logprobs is not None:
                piece.logprobs = held.logprobs + (piece.logprobs or [])
        return piece
