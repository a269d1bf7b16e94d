"""A backend without a model that draws what a program does: every call is answered by a value that is made up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

from bough.lang.backends.base import ROOT, ChatMessages, Content, Generation, Piece, Selection, Session
from bough.lang.choices import ChoiceLogprobs
from bough.lang.errors import TraceError
from bough.lang.example import text_for
from bough.lang.graph import Edge, Graph, Node, NodeKind, shown

MAX_NODES = 10_000
"""A program that does more is taken for one that does not end with made-up values."""


class Trace:
    """Records one run of a program."""

    def __init__(self) -> None:
        self._nodes: list[Node] = []
        self._edges: list[Edge] = []

    @property
    def graph(self) -> Graph:
        """What was recorded so far."""
        return Graph(tuple(self._nodes), tuple(self._edges))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Session]:
        """A session for one program."""
        yield _TraceSession(self)

    def add(self, kind: NodeKind, state: int, label: str, *, after: Sequence[int], branches: Sequence[int] = ()) -> int:
        """Add a node; returns its number. TraceError where there are too many."""
        number = len(self._nodes)
        if number >= MAX_NODES:
            raise TraceError(
                f"trace: the program does more than {MAX_NODES} things; with made-up values it may not end"
            )
        self._nodes.append(Node(number, kind, state, label, tuple(branches)))
        self._edges += [Edge(source, number) for source in after]
        return number


class _TraceSession:
    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._last: dict[int, list[int]] = {ROOT: []}
        """The node, if there is one, that the next one of a state comes after."""

    async def extend(self, state: int, content: Content) -> None:
        """A node for each text and turn."""
        if isinstance(content, ChatMessages):
            for message in content.messages:
                self._add("text", state, f"{message.role}: {shown(message.content)}")
            if content.opens_turn:
                self._add("text", state, "assistant:")
        else:
            self._add("text", state, shown(content.text))

    async def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        """A node, and a text that is made up."""
        sampling, constraint = generation.sampling, generation.constraint
        several = "" if sampling.is_single else f" ({sampling.n} of them)"
        held = "" if constraint is None else f" [{constraint.kind}]"
        self._add("gen", state, f"{generation.name or ''}{several}{held}".strip())
        for index in range(sampling.n or 1):
            yield Piece(text=text_for(generation.name, constraint), index=index, finish_reason="stop")

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """A node; the first choice wins."""
        self._add("select", state, f"{selection.name or ''} {' | '.join(map(shown, selection.choices))}".strip())
        return [
            ChoiceLogprobs(tokens=(choice,), logprobs=(-float(number),), unconditional=(0.0,))
            for number, choice in enumerate(selection.choices)
        ]

    async def fork(self, state: int, count: int) -> Sequence[int]:
        """A node, where the branches begin."""
        children = range(len(self._last), len(self._last) + count)
        self._add("fork", state, str(count), branches=children)
        self._last |= {child: list(self._last[state]) for child in children}
        return children

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        """A node, where the branches end."""
        ends = [node for child in children for node in self._last[child]]
        self._last[state] = list(dict.fromkeys([*self._last[state], *ends]))
        self._add("join", state, "append" if append else "")

    async def position(self, state: int) -> int:
        """The last node, or -1."""
        return max(self._last[state], default=-1)

    async def rollback(self, state: int, position: int) -> None:
        """What comes next comes after that node again."""
        self._last[state] = [position] if position >= 0 else []

    async def release(self, states: Sequence[int]) -> None:
        """Nothing: what they did stays in the graph."""

    def _add(self, kind: NodeKind, state: int, label: str, branches: Sequence[int] = ()) -> None:
        self._last[state] = [self._trace.add(kind, state, label, after=self._last[state], branches=branches)]
