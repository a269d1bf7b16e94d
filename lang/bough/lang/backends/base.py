"""What a backend is: something that keeps states and lets a model go on with them.

A program runs in one session. Its states are named by numbers; number 0 is there from the start and empty. The
language makes one call at a time on a state, and calls on different states side by side. A call that is cancelled or
fails leaves its state as it was, and the language makes no further one on it but `release`. A session may put off
what it tells its server until a call needs an answer; an error of what was put off is that call's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from bough.client.types import TokenLogprob, Usage
from bough.lang.choices import ChoiceLogprobs
from bough.lang.expressions import Role
from bough.lang.output import Constraint
from bough.lang.sampling import Sampling

ROOT = 0
"""The state that a session begins with."""


@dataclass(frozen=True, slots=True)
class Message:
    """A whole turn of a chat."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class PlainText:
    """Text at the end of a state: of the open turn, where the state is a chat."""

    text: str


@dataclass(frozen=True, slots=True)
class ChatMessages:
    """Messages behind those that a state has. A turn of the assistant that is open ends before them."""

    messages: tuple[Message, ...]
    opens_turn: bool = False
    """The assistant's turn begins after them."""


Content: TypeAlias = PlainText | ChatMessages
"""What a state is extended by. A state is plain text or a chat, never both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A call that lets the model go on; `max_tokens` is always set."""

    name: str | None
    """What the program calls the result."""
    sampling: Sampling
    constraint: Constraint | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """A call that scores texts as continuations."""

    name: str | None
    choices: tuple[str, ...]
    unconditional: bool = False
    """Score them with nothing before them too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """A piece of what a model produces."""

    text: str = ""
    index: int = 0
    """Of which continuation."""
    finish_reason: str | None = None
    """`stop` or `length`, with the last piece of a continuation."""
    logprobs: tuple[TokenLogprob, ...] = ()
    usage: Usage | None = None
    """With any piece; the last one counts."""


class Session(Protocol):
    """States of one program."""

    async def extend(self, state: int, content: Content) -> None:
        """Add to a state."""

    def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        """Go on with a state, which grows by the text at the end, unless there is more than one continuation.

        Closing the generator cancels.
        """

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """Log probabilities of each choice, in their order. The state stays as it is."""

    async def fork(self, state: int, count: int) -> Sequence[int]:
        """New states equal to this one."""

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        """Release branches of a state; with `append` add to it, in their order, what each has got since it branched."""

    async def position(self, state: int) -> int:
        """Where a state ends, to go back there."""

    async def rollback(self, state: int, position: int) -> None:
        """Cut a state off where it once ended."""

    async def release(self, states: Sequence[int]) -> None:
        """Give states up."""


class Backend(Protocol):
    """Opens sessions; one object serves any number of programs, in any event loop."""

    def open(self) -> AbstractAsyncContextManager[Session]:
        """A session for one program; leaving it gives all its states up."""
