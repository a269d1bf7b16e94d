"""Programs as data, and an interpreter that sends a whole prompt for each call: no sharing, no queues, no tasks.

What a backend gives for a program is compared with what this gives. `build` makes a program of the language from the
same data.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

from hypothesis import strategies as st

from bough.lang import AsyncState, ChoicesMethod, State, gen, select
from bough.lang.backends.base import Message
from bough.lang.backends.fake import FakeCall, cut, made_up
from bough.lang.sampling import Sampling
from bough.lang.state import BaseState

Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class AddText:
    text: str


@dataclass(frozen=True)
class DoGen:
    name: str
    max_tokens: int
    stop: str | None = None


@dataclass(frozen=True)
class DoSelect:
    name: str
    choices: tuple[str, ...]
    method: ChoicesMethod


@dataclass(frozen=True)
class DoFork:
    branches: tuple[tuple[Op, ...], ...]
    append: bool


@dataclass(frozen=True)
class DoTurn:
    role: Role
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class DoScope:
    name: str
    ops: tuple[Op, ...]


@dataclass(frozen=True)
class DoAttempt:
    """Ops whose text is forgotten afterwards."""

    ops: tuple[Op, ...]


Op: TypeAlias = AddText | DoGen | DoSelect | DoFork | DoTurn | DoScope | DoAttempt


@dataclass(frozen=True)
class Outcome:
    variables: dict[str, Any]
    text: str
    messages: list[dict[str, str]]


class Completions(Protocol):
    """A model that goes on with a whole prompt."""

    def complete(self, messages: tuple[Message, ...] | None, text: str, op: DoGen) -> Awaitable[str]: ...

    def choose(self, messages: tuple[Message, ...] | None, text: str, op: DoSelect) -> Awaitable[str]: ...


class MadeUp:
    """The answers that a Fake without a script gives."""

    async def complete(self, messages: tuple[Message, ...] | None, text: str, op: DoGen) -> str:
        call = FakeCall(name=op.name, text=text, messages=messages)
        stop = (op.stop,) if op.stop else None
        return "".join(cut(made_up(call), Sampling(max_tokens=op.max_tokens, stop=stop))[0])

    async def choose(self, messages: tuple[Message, ...] | None, text: str, op: DoSelect) -> str:
        return made_up(FakeCall(name=op.name, text=text, messages=messages, choices=op.choices))


@dataclass
class _State:
    messages: list[Message] = field(default_factory=list)
    is_chat: bool = False
    role: Role | None = None
    turn: str = ""
    """Of a chat the turn that goes on, else everything."""
    text: str = ""
    variables: dict[str, Any] = field(default_factory=dict)
    assigned: set[str] = field(default_factory=set)

    def branch(self) -> _State:
        return _State(list(self.messages), self.is_chat, self.role, self.turn, self.text, dict(self.variables))

    def add(self, text: str) -> None:
        self.turn += text
        self.text += text

    def assign(self, name: str, value: Any) -> None:
        self.variables[name] = value
        self.assigned.add(name)


async def interpret(ops: Sequence[Op], model: Completions) -> Outcome:
    state = _State()
    await _run(ops, state, model)
    turns = [*state.messages, *([Message(state.role, state.turn)] if state.role else [])]
    return Outcome(state.variables, state.text, [{"role": turn.role, "content": turn.content} for turn in turns])


async def _run(ops: Sequence[Op], state: _State, model: Completions) -> None:
    for op in ops:
        prompt = (tuple(state.messages) if state.is_chat else None, state.turn)
        match op:
            case AddText(text):
                state.add(text)
            case DoGen(name):
                answer = await model.complete(*prompt, op)
                state.add(answer)
                state.assign(name, answer)
            case DoSelect(name):
                choice = await model.choose(*prompt, op)
                state.add(choice)
                state.assign(name, choice)
            case DoFork():
                await _fork(op, state, model)
            case DoTurn(role, inner):
                state.is_chat, state.role, state.turn = True, role, ""
                await _run(inner, state, model)
                state.messages.append(Message(role, state.turn))
                state.role, state.turn = None, ""
            case DoScope(name, inner):
                begin = len(state.text)
                await _run(inner, state, model)
                state.assign(name, state.text[begin:])
            case DoAttempt(inner):
                before = state.branch()
                await _run(inner, state, model)
                state.messages, state.is_chat, state.role = before.messages, before.is_chat, before.role
                state.turn, state.text = before.turn, before.text


async def _fork(op: DoFork, state: _State, model: Completions) -> None:
    children = []
    for ops in op.branches:
        child = state.branch()
        await _run(ops, child, model)
        children.append(child)
    for name in sorted({name for child in children for name in child.assigned}):
        state.assign(name, [child.variables.get(name) for child in children])
    if op.append:
        text, turn, num_messages = len(state.text), len(state.turn), len(state.messages)
        for child in children:
            state.text += child.text[text:]
            state.turn += child.turn[turn:]
            state.messages += child.messages[num_messages:]
            state.is_chat = state.is_chat or child.is_chat


def build(ops: Sequence[Op], s: BaseState) -> None:
    """Do the same with a state of the language."""
    for op in ops:
        match op:
            case AddText(text):
                s += text
            case DoGen(name, max_tokens, stop):
                s += gen(name, max_tokens=max_tokens, stop=stop) if stop else gen(name, max_tokens=max_tokens)
            case DoSelect(name, choices, method):
                s += select(name, choices, choices_method=method)
            case DoFork(branches, append):
                with s.fork(len(branches)) as group:
                    for child, inner in zip(group, branches, strict=True):
                        build(inner, child)
                    group.join(append=append)
            case DoTurn(role, inner):
                with getattr(s, role)():
                    build(inner, s)
            case DoScope(name, inner):
                with s.var_scope(name):
                    build(inner, s)
            case DoAttempt(inner):
                mark = s.mark()
                build(inner, s)
                s.rollback(mark)


def build_plain(s: State, ops: Sequence[Op]) -> None:
    build(ops, s)


async def build_async(s: AsyncState, ops: Sequence[Op]) -> None:
    build(ops, s)


NAMES = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["Once", " there was", "\n", "a tree.", " Is it so? ", "é😀"])
CHOICES = st.sampled_from([("yes", "no"), ("oak", "ash", "elm"), ("one", "one two", "one two three")])
STOPS = st.sampled_from([None, None, "oak", " "])

texts = st.builds(AddText, TEXTS)


def plain_programs(methods: Sequence[ChoicesMethod] = tuple(ChoicesMethod)) -> st.SearchStrategy[tuple[Op, ...]]:
    """Programs whose state is plain text."""
    return _nested(_calls(methods))


def chat_programs(methods: Sequence[ChoicesMethod] = tuple(ChoicesMethod)) -> st.SearchStrategy[tuple[Op, ...]]:
    """Programs whose state is a chat, with forks between turns and within them."""
    turns: st.SearchStrategy[Op] = st.one_of(
        st.builds(DoTurn, st.just("system"), st.lists(texts, max_size=2).map(tuple)),
        st.builds(DoTurn, st.just("user"), _nested(texts)),
        st.builds(DoTurn, st.just("assistant"), _nested(_calls(methods))),
    )
    return _nested(turns)


def _calls(methods: Sequence[ChoicesMethod]) -> st.SearchStrategy[Op]:
    gens = st.builds(DoGen, NAMES, st.integers(1, 6), STOPS)
    return st.one_of(texts, gens, st.builds(DoSelect, NAMES, CHOICES, st.sampled_from(methods)))


def _nested(leaves: st.SearchStrategy[Op]) -> st.SearchStrategy[tuple[Op, ...]]:
    flat = st.lists(leaves, max_size=4).map(tuple)
    return st.recursive(flat, lambda inner: st.lists(leaves | _blocks(inner), max_size=4).map(tuple), max_leaves=8)


def _blocks(inner: st.SearchStrategy[tuple[Op, ...]]) -> st.SearchStrategy[Op]:
    forks = st.builds(DoFork, st.lists(inner, min_size=1, max_size=3).map(tuple), st.booleans())
    return st.one_of(forks, st.builds(DoScope, NAMES, inner), st.builds(DoAttempt, inner))
