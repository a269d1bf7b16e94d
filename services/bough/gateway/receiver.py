"""What a client call receives: a receiver for each sequence, and the call that waits for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from bough.common.errors import BoughError, UnavailableError
from bough.common.requests import Submission
from bough.common.sampling import FinishReason


@dataclass(slots=True)
class TokenInfo:
    """Log probabilities at one position, with the bytes that the tokens stand for."""

    token: int
    data: bytes
    logprob: float
    rank: int
    top: tuple[tuple[int, bytes, float], ...]
    """(token id, its bytes, log probability), likeliest first."""


@dataclass(slots=True)
class TextRow:
    """One request's share of a detokenizer's message."""

    request: int
    position: int
    tokens: list[int]
    finish: FinishReason
    offset: int
    """Where `text` begins in the text of the request, in characters."""
    text: str
    stop_string: str = ""
    logprobs: list[TokenInfo] | None = None


@dataclass(slots=True)
class Piece:
    """What came in for one sequence since the last look."""

    index: int
    text: str
    tokens: list[int]
    logprobs: list[TokenInfo] | None
    finish: FinishReason
    """Not NONE in the last piece of a sequence."""
    stop_string: str
    next_position: int
    """Position of the token after this piece."""


Taker = Callable[[list[Piece]], Awaitable[None] | None]
"""Takes pieces while they come in. What it returns is waited for before it gets any more; None is: go on."""


class Receiver:
    """Collects the tokens and the text of one sequence, each exactly once whatever is sent again."""

    __slots__ = (
        "_logprobs",
        "_text",
        "_tokens",
        "cached_tokens",
        "call",
        "finish",
        "home",
        "index",
        "num_resumes",
        "position",
        "request",
        "sent",
        "stop_string",
        "submission",
        "text_offset",
        "waiting_since",
    )

    def __init__(self, request: int, index: int, call: Call, submission: Submission | None) -> None:
        self.request = request
        self.index = index
        self.call = call
        self.submission = submission
        """None for a request taken over by `resume`."""
        self.position = 0
        """Tokens received, and so the position of the next one."""
        self.text_offset = 0
        """Characters received."""
        self.finish = FinishReason.NONE
        self.stop_string = ""
        self.cached_tokens = 0
        self.home: object | None = None
        """The detokenizer copy that serves it; None while there is none."""
        self.sent = False
        self.num_resumes = 0
        """Resumes without a token since."""
        self.waiting_since = 0.0
        self._text: list[str] = []
        self._tokens: list[int] = []
        self._logprobs: list[TokenInfo] = []

    @property
    def ended(self) -> bool:
        """Whether the end was received."""
        return self.finish is not FinishReason.NONE

    def accept_one(self, position: int, token: int, offset: int, text: str) -> None:
        """As `accept`, for a row of one token that ends nothing and carries no log probabilities: nearly every one."""
        if position != self.position or offset != self.text_offset or self.finish:
            self.accept(TextRow(self.request, position, [token], FinishReason.NONE, offset, text))
            return
        self._tokens.append(token)
        self.position = position + 1
        self.num_resumes = 0
        if text:
            self._text.append(text)
            self.text_offset = offset + len(text)
        self.call.changed[self] = None

    def accept(self, row: TextRow) -> None:
        """Take what is new in a row. Raises UnavailableError where something is missing before it."""
        if self.finish:
            return
        if row.position > self.position or row.offset > self.text_offset:
            raise UnavailableError(
                f"request {self.request:x} misses something before token {row.position} and character {row.offset}: "
                f"{self.position} tokens and {self.text_offset} characters have come"
            )
        seen = self.position - row.position
        if seen < len(row.tokens):
            self._tokens += row.tokens[seen:] if seen else row.tokens
            if row.logprobs is not None:
                self._logprobs += row.logprobs[seen:]
            self.position = row.position + len(row.tokens)
            self.num_resumes = 0
        known = self.text_offset - row.offset
        if known < len(row.text):
            self._text.append(row.text[known:] if known else row.text)
            self.text_offset = row.offset + len(row.text)
        if row.finish:
            self.finish, self.stop_string = row.finish, row.stop_string
            if row.finish is not FinishReason.ERROR and row.finish is not FinishReason.CANCELLED:
                self.call.num_open -= 1
        self.call.changed[self] = None

    def take(self) -> Piece:
        """What came since the last call; for the call, which hands each piece out once."""
        piece = Piece(
            self.index,
            self._text[0] if len(self._text) == 1 else "".join(self._text),
            self._tokens,
            self._logprobs or None,
            self.finish,
            self.stop_string,
            self.position,
        )
        self._text, self._tokens = [], []
        if self._logprobs:
            self._logprobs = []
        return piece


class Call:
    """One client call: all its sequences, and the one task that waits for what they receive.

    Whoever feeds the receivers calls `notify` once after each message, so that what a message brings for several
    sequences goes out in one piece, and a task is woken for it once or, with `each`, not at all.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.prompts: list[Sequence[int]] = []
        """Token ids of each prompt, empty for a call that was resumed."""
        self.num_prompt_tokens: list[int] = []
        """Tokens of each prompt."""
        self.receivers: list[Receiver] = []
        """By index: prompt * n + continuation."""
        self.num_open = 0
        """Sequences that have not ended as they should."""
        self.start_s = time.monotonic()
        self.changed: dict[Receiver, None] = {}
        """Receivers with something that was not taken yet."""
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._taker: Taker | None = None
        self._taken: asyncio.Future[Awaitable[None] | None] | None = None

    def notify(self) -> None:
        """Receivers have something new, or the call has failed: hand it on."""
        if self._taker is not None:
            self._feed(self._taker)
        elif self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """End the call with an error, told to whoever waits; the first error counts."""
        if self._error is None:
            self._error = error
            # Not at once: a message that brings an error may bring text too, which goes first.
            asyncio.get_running_loop().call_soon(self.notify)

    async def pieces(self) -> list[Piece]:
        """What came in since the last call, once there is anything: a piece for each sequence with something new.

        Raises:
            Exception: The error that the call ended with, after all that came in before it.
        """
        while not (pieces := self._take()):
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return pieces

    async def each(self, take: Taker) -> None:
        """Hand over pieces as they come in, from within `notify`, until all sequences have ended.

        A task that waits costs a wake-up for each token; this one is woken at the end, and when `take` has it wait.

        Raises:
            Exception: The error that the call ended with, after all that came in before it; or what `take` raised.
        """
        while True:
            self._taken = asyncio.get_running_loop().create_future()
            self._taker = take
            try:
                self._feed(take)
                pause = await self._taken
            finally:
                self._taker = None
            if pause is None:
                return
            await pause

    def _feed(self, take: Taker) -> None:
        taken = self._taken
        if taken is None or taken.done():
            return
        try:
            pieces = self._take()
            pause = take(pieces) if pieces else None
            if pause is None and self.num_open and self._error is not None:
                raise self._error
        except Exception as error:  # for the task that waits, not for whoever read the message
            self._taker = None
            taken.set_exception(error)
            return
        if pause is not None or not self.num_open:
            self._taker = None
            taken.set_result(pause)

    def _take(self) -> list[Piece]:
        if not self.changed:
            if self._error is not None:
                raise self._error
            return []
        changed, self.changed = self.changed, {}
        pieces = []
        for receiver in changed:
            piece = receiver.take()
            if piece.finish is FinishReason.ERROR or piece.finish is FinishReason.CANCELLED:
                self._error = self._error or _ended(receiver)
                piece.finish = FinishReason.NONE
                if not (piece.text or piece.tokens):
                    continue
            pieces.append(piece)
        if not pieces and self._error is not None:
            raise self._error
        return pieces

    def add(self, request: int, submission: Submission | None) -> Receiver:
        """A receiver for one more sequence."""
        receiver = Receiver(request, len(self.receivers), self, submission)
        self.receivers.append(receiver)
        self.num_open += 1
        return receiver

    @property
    def failed(self) -> bool:
        """Whether the call ends with an error."""
        return self._error is not None

    @property
    def num_cached_tokens(self) -> int:
        """Tokens of the prompts that came from the prefix cache, those that siblings share counted once."""
        siblings = max(1, len(self.receivers) // max(1, len(self.num_prompt_tokens)))
        return sum(
            min(receiver.cached_tokens for receiver in self.receivers[start : start + siblings])
            for start in range(0, len(self.receivers), siblings)
        )


def _ended(receiver: Receiver) -> BoughError:
    what = "was cancelled" if receiver.finish is FinishReason.CANCELLED else "failed"
    return UnavailableError(f"the generation {what} after {receiver.position} tokens")
