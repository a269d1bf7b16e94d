"""What a client call receives: a receiver for each sequence, and the call that waits for all of them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
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
            self.call.num_open -= 1
        self.call.touch(self)

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
    """One client call: all its sequences, and the one task that waits for what they receive."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prompts: list[Sequence[int]] = []
        """Token ids of each prompt, empty for a call that was resumed."""
        self.num_prompt_tokens: list[int] = []
        """Tokens of each prompt."""
        self.receivers: list[Receiver] = []
        """By index: prompt * n + continuation."""
        self.num_open = 0
        """Sequences that have not ended."""
        self.start_s = time.monotonic()
        self._changed: dict[Receiver, None] = {}
        self._error: BaseException | None = None
        self._waiter: asyncio.Future[None] | None = None

    def touch(self, receiver: Receiver) -> None:
        """A receiver has something new."""
        self._changed[receiver] = None
        self._wake()

    def fail(self, error: BaseException) -> None:
        """End the call with an error, told to whoever waits; the first error counts."""
        if self._error is None:
            self._error = error
            self._wake()

    async def pieces(self) -> list[Piece]:
        """What came in since the last call, once there is anything: a piece for each sequence with something new.

        Raises:
            BaseException: The error that the call ended with, after all that came in before it.
        """
        while not self._changed:
            if self._error is not None:
                raise self._error
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        changed = list(self._changed)
        self._changed.clear()
        for receiver in changed:
            if receiver.finish in (FinishReason.ERROR, FinishReason.CANCELLED):
                raise self._error or _ended(receiver)
        return [receiver.take() for receiver in changed]

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

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


def _ended(receiver: Receiver) -> BoughError:
    what = "was cancelled" if receiver.finish is FinishReason.CANCELLED else "failed"
    return UnavailableError(f"the generation {what} after {receiver.position} tokens")
