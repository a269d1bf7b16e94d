"""States that are kept in this process, for backends whose calls carry the whole prompt."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from bough.lang.backends.base import (
    ROOT,
    Content,
    Generation,
    Message,
    Piece,
    PlainText,
    Selection,
)
from bough.lang.choices import ChoiceLogprobs


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A state as a call sends it: a text, or a chat whose last turn may be the assistant's and open."""

    text: str
    """Of a chat, that of the open turn."""
    messages: tuple[Message, ...] | None = None
    """Turns before the open one; None for plain text."""

    @classmethod
    def of(cls, contents: Sequence[Content]) -> Prompt:
        """From what a state was extended by."""
        messages: list[Message] | None = None
        is_open, texts = False, list[str]()
        for content in contents:
            if isinstance(content, PlainText):
                texts.append(content.text)
                continue
            messages = [] if messages is None else messages
            if is_open:
                messages.append(Message("assistant", "".join(texts)))
            texts, is_open = [], content.opens_turn
            messages += content.messages
        return cls(text="".join(texts), messages=None if messages is None else tuple(messages))


@dataclass(slots=True)
class _State:
    contents: list[Content] = field(default_factory=list)
    branched_at: int = 0
    """Contents that it had when it branched."""


class LocalSession(ABC):
    """A session whose states are lists of what they were extended by; a position is the length of the list."""

    def __init__(self) -> None:
        self._states = {ROOT: _State()}
        self._next = ROOT + 1

    @property
    def num_states(self) -> int:
        """States that were not released."""
        return len(self._states)

    @abstractmethod
    def _pieces(self, prompt: Prompt, generation: Generation) -> AsyncGenerator[Piece, None]:
        """What the model goes on with."""

    @abstractmethod
    async def _scores(self, prompt: Prompt, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """Log probabilities of the choices."""

    async def extend(self, state: int, content: Content) -> None:
        """Add to a state."""
        self._states[state].contents.append(content)

    async def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        """Go on with a state."""
        contents, texts = self._states[state].contents, []
        async with aclosing(self._pieces(Prompt.of(contents), generation)) as pieces:
            async for piece in pieces:
                texts.append(piece.text)
                yield piece
        if generation.sampling.is_single:
            contents.append(PlainText("".join(texts)))

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """Log probabilities of each choice."""
        return await self._scores(Prompt.of(self._states[state].contents), selection)

    async def fork(self, state: int, count: int) -> Sequence[int]:
        """New states equal to this one."""
        contents = self._states[state].contents
        numbers = range(self._next, self._next + count)
        self._next += count
        self._states.update({number: _State(list(contents), len(contents)) for number in numbers})
        return numbers

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        """Release branches, and add what they have got since they branched."""
        for child in children:
            branch = self._states.pop(child)
            if append:
                self._states[state].contents += branch.contents[branch.branched_at :]

    async def position(self, state: int) -> int:
        """Where a state ends."""
        return len(self._states[state].contents)

    async def rollback(self, state: int, position: int) -> None:
        """Cut a state off."""
        del self._states[state].contents[position:]

    async def release(self, states: Sequence[int]) -> None:
        """Give states up."""
        for state in states:
            del self._states[state]
