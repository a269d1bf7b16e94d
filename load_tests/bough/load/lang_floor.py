"""The least that programs must have computed of their prompts: each distinct position of a token once.

`Watched` is a backend around another one. It keeps a trie of token ids with what each state holds; what a generation
begins behind must be computed, once for all that share it. What a model has produced is there already, but for the last
token of an output, which no step has read.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace

from bough.lang import Backend
from bough.lang.backends.base import (
    ROOT,
    ChatMessages,
    Content,
    Generation,
    Message,
    Piece,
    Selection,
    Session,
)
from bough.lang.choices import ChoiceLogprobs

Encode = Callable[[str], Awaitable[Sequence[int]]]
"""Ids of a text by itself."""
EncodeChat = Callable[[Sequence[Message], bool, bool], Awaitable[Sequence[int]]]
"""Ids of a chat: the turns, whether the assistant's opens after them, whether the last one goes on."""


class Trie:
    """Sequences of tokens that share their beginnings, and what of them was computed."""

    def __init__(self) -> None:
        self.least = 0
        """Positions that had to be computed as a part of a prompt."""
        self._nodes: dict[tuple[int, Hashable], int] = {}
        self._parents = [0]
        self._tokens: list[Hashable] = [None]
        self._lengths = [0]
        self._is_there = [True]

    def add(self, node: int, tokens: Iterable[Hashable]) -> int:
        """The node behind these tokens."""
        for token in tokens:
            found = self._nodes.get((node, token))
            if found is None:
                found = self._nodes[node, token] = len(self._parents)
                self._parents.append(node)
                self._tokens.append(token)
                self._lengths.append(self._lengths[node] + 1)
                self._is_there.append(False)
            node = found
        return node

    def need(self, node: int) -> None:
        """A model goes on behind this node."""
        while not self._is_there[node]:
            self._is_there[node] = True
            self.least += 1
            node = self._parents[node]

    def produce(self, node: int, tokens: Sequence[Hashable]) -> int:
        """A model has gone on with these tokens; returns the node behind them."""
        for token in tokens[:-1]:
            node = self.add(node, (token,))
            self._is_there[node] = True
        return self.add(node, tokens[-1:])

    def length(self, node: int) -> int:
        """Tokens up to a node."""
        return self._lengths[node]

    def between(self, above: int, below: int) -> list[Hashable]:
        """Tokens behind the node `above`, up to the node `below` of its branch."""
        tokens: list[Hashable] = []
        while below != above:
            tokens.append(self._tokens[below])
            below = self._parents[below]
        return tokens[::-1]


@dataclass(frozen=True, slots=True)
class _State:
    node: int = 0
    branched_at: int = 0
    messages: tuple[Message, ...] = ()
    turn: str = ""
    is_open: bool = False


@dataclass(slots=True)
class Watched:
    """A backend that counts what the programs on another one need.

    Args:
        backend: The other one.
        encode: How texts become ids.
        encode_chat: How chats do.
    """

    backend: Backend
    encode: Encode
    encode_chat: EncodeChat
    trie: Trie = field(default_factory=Trie)
    num_generations: int = 0
    num_other_lengths: int = 0
    """Generations whose prompt had another length at the server than here."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """A session for one program."""
        async with self.backend.open() as session:
            yield _Session(self, session)


class _Session:
    def __init__(self, watched: Watched, session: Session) -> None:
        self._watched = watched
        self._trie = watched.trie
        self._session = session
        self._states = {ROOT: _State()}
        self._marks: dict[int, _State] = {}

    async def extend(self, state: int, content: Content) -> None:
        """Add to a state."""
        await self._session.extend(state, content)
        known = self._states[state]
        if isinstance(content, ChatMessages):
            self._states[state] = await self._after_chat(known, content)
        else:
            node = self._trie.add(known.node, await self._watched.encode(content.text))
            self._states[state] = replace(known, node=node, turn=known.turn + content.text)

    async def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        """Go on with a state."""
        known, text, usage = self._states[state], "", None
        self._trie.need(known.node)
        async with aclosing(self._session.generate(state, generation)) as pieces:
            async for piece in pieces:
                text += piece.text
                usage = piece.usage or usage
                yield piece
        assert usage is not None
        self._watched.num_generations += 1
        self._watched.num_other_lengths += usage.prompt_tokens != self._trie.length(known.node)
        if generation.sampling.is_single:
            # Ids are not told. The same text behind the same prompt stands for the same ids, and their number is known.
            tokens = [(text, number) for number in range(usage.completion_tokens)]
            self._states[state] = replace(known, node=self._trie.produce(known.node, tokens), turn=known.turn + text)

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """Score choices."""
        node = self._states[state].node
        self._trie.need(node)
        for choice in selection.choices:
            self._trie.produce(node, await self._watched.encode(choice))
        return await self._session.select(state, selection)

    async def fork(self, state: int, count: int) -> Sequence[int]:
        """New states equal to this one."""
        children, known = await self._session.fork(state, count), self._states[state]
        self._states.update({child: replace(known, branched_at=known.node) for child in children})
        return children

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        """Release branches of a state."""
        await self._session.join(state, children, append=append)
        for child in children:
            branch, known = self._states.pop(child), self._states[state]
            if append:
                node = self._trie.add(known.node, self._trie.between(branch.branched_at, branch.node))
                self._states[state] = replace(branch, node=node, branched_at=known.branched_at)

    async def position(self, state: int) -> int:
        """Where a state ends."""
        position = await self._session.position(state)
        self._marks[position] = self._states[state]
        return position

    async def rollback(self, state: int, position: int) -> None:
        """Cut a state off."""
        await self._session.rollback(state, position)
        self._states[state] = self._marks[position]

    async def release(self, states: Sequence[int]) -> None:
        """Give states up."""
        await self._session.release(states)

    async def _after_chat(self, known: _State, content: ChatMessages) -> _State:
        before = (*known.messages, Message("assistant", known.turn)) if known.is_open else known.messages
        messages = (*before, *content.messages)
        whole = await self._watched.encode_chat(messages, content.opens_turn, False)
        there = await self._watched.encode_chat(before, False, known.is_open) if before else ()
        node = self._trie.add(known.node, whole[len(there) :])
        return replace(known, node=node, messages=messages, turn="", is_open=content.opens_turn)
