"""A backend without a model, for tests of programs: answers are scripted, and every call is kept."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

from bough.client.types import TokenLogprob, Usage
from bough.lang.backends.base import Generation, Message, Piece, Selection
from bough.lang.backends.local import LocalSession, Prompt
from bough.lang.choices import ChoiceLogprobs
from bough.lang.errors import LangError
from bough.lang.example import text_for
from bough.lang.output import Constraint
from bough.lang.sampling import Sampling

Answer: TypeAlias = str | Exception
Answers: TypeAlias = (
    "Sequence[Answer] | Mapping[str, Answer | Sequence[Answer]] | Callable[[FakeCall], Answer | Awaitable[Answer]]"
)

_TOKEN = re.compile(r"\s*\S+|\s+")
_WORDS = ("ash", "beech", "cedar", "elm", "fir", "hazel", "larch", "maple", "oak", "pine", "rowan", "willow")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCall:
    """A call that a program made."""

    name: str | None
    """The variable."""
    text: str
    """The state; of a chat, the assistant's open turn."""
    messages: tuple[Message, ...] | None = None
    """Turns before the open one; None for plain text."""
    sampling: Sampling = field(default_factory=Sampling)
    constraint: Constraint | None = None
    choices: tuple[str, ...] = ()
    """Of a `select`."""
    index: int = 0
    """Which of n continuations."""


class Fake:
    """A backend that gives scripted answers. A token is a word with the white space before it.

    Args:
        answers: What calls answer: a list, in the order of the calls; a mapping of variables' names, to one answer for
            all calls or to a list of them; or a function of the call, async or not. An exception among them is raised.
            To a `select` the answer is the choice that wins. Without any, answers are made up, the same for the same
            prompt.
    """

    def __init__(self, answers: Answers | None = None) -> None:
        self.calls: list[FakeCall] = []
        """All calls, in the order in which they began."""
        self.num_under_way = 0
        """Calls that have begun and not ended."""
        self.num_sessions = 0
        """Sessions that are open."""
        self._answers = answers
        self._used: dict[str | None, int] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalSession]:
        """A session for one program."""
        self.num_sessions += 1
        try:
            yield _FakeSession(self)
        finally:
            self.num_sessions -= 1

    async def answer(self, call: FakeCall) -> str:
        """Keep a call and answer it."""
        self.calls.append(call)
        self.num_under_way += 1
        try:
            answer = await self._find(call)
        finally:
            self.num_under_way -= 1
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _find(self, call: FakeCall) -> Answer:
        answers = self._answers
        if answers is None:
            return made_up(call)
        if callable(answers):
            answer = answers(call)
            return await answer if inspect.isawaitable(answer) else answer
        if not isinstance(answers, Mapping):
            return self._next(answers, None)
        if call.name is None or call.name not in answers:
            raise LangError(f"fake: no answer for {call.name!r}, there are some for: {', '.join(answers)}")
        named = answers[call.name]
        return named if isinstance(named, str | Exception) else self._next(named, call.name)

    def _next(self, answers: Sequence[Answer], name: str | None) -> Answer:
        used = self._used.get(name, 0)
        if used >= len(answers):
            raise LangError(f"fake: all {len(answers)} answers{f' for {name!r}' if name else ''} are used up")
        self._used[name] = used + 1
        return answers[used]


class _FakeSession(LocalSession):
    def __init__(self, backend: Fake) -> None:
        super().__init__()
        self._backend = backend

    async def _pieces(self, prompt: Prompt, generation: Generation) -> AsyncGenerator[Piece, None]:
        usage = Usage(prompt_tokens=_count(prompt))
        for index in range(generation.sampling.n or 1):
            call = FakeCall(
                name=generation.name,
                text=prompt.text,
                messages=prompt.messages,
                sampling=generation.sampling,
                constraint=generation.constraint,
                index=index,
            )
            tokens, finish_reason = cut(await self._backend.answer(call), generation.sampling)
            for token in tokens:
                # Another task may run between two tokens, as between those of a server.
                await asyncio.sleep(0)
                logprobs = () if call.sampling.logprobs is None else (TokenLogprob(token=token, logprob=0.0),)
                yield Piece(text=token, index=index, logprobs=logprobs)
            usage = Usage(prompt_tokens=usage.prompt_tokens, completion_tokens=usage.completion_tokens + len(tokens))
            yield Piece(index=index, finish_reason=finish_reason, usage=usage)

    async def _scores(self, prompt: Prompt, selection: Selection) -> Sequence[ChoiceLogprobs]:
        call = FakeCall(name=selection.name, text=prompt.text, messages=prompt.messages, choices=selection.choices)
        answer = await self._backend.answer(call)
        if answer not in selection.choices:
            raise LangError(f"fake: {selection.name!r} is to be {answer!r}, its choices are {list(selection.choices)}")
        return [_certain(choice, is_chosen=choice == answer) for choice in selection.choices]


def made_up(call: FakeCall) -> str:
    """Words, or a choice, that depend on the prompt only; where something holds the output, a text that fits."""
    if call.constraint is not None:
        return text_for(call.name, call.constraint)
    turns = [f"{message.role}: {message.content}" for message in call.messages or ()]
    digest = hashlib.sha256("\n".join([*turns, call.text, str(call.index)]).encode()).digest()
    if call.choices:
        return call.choices[digest[0] % len(call.choices)]
    return "".join(f" {_WORDS[byte % len(_WORDS)]}" for byte in digest[1 : 2 + digest[0] % 8])


def cut(text: str, sampling: Sampling) -> tuple[list[str], str]:
    """A text as tokens, up to the first stop string and `max_tokens`, and why it ended."""
    ends = [end for stop in sampling.stop or () if (end := text.find(stop)) >= 0]
    tokens = _TOKEN.findall(text[: min(ends, default=len(text))])
    limit = sampling.max_tokens
    if limit is not None and len(tokens) > limit:
        return tokens[:limit], "length"
    return tokens, "stop"


def _certain(choice: str, *, is_chosen: bool) -> ChoiceLogprobs:
    tokens = tuple(_TOKEN.findall(choice))
    # The chosen one wins by every method.
    logprob = 0.0 if is_chosen else -10.0
    return ChoiceLogprobs(tokens=tokens, logprobs=(logprob,) * len(tokens), unconditional=(-1.0,) * len(tokens))


def _count(prompt: Prompt) -> int:
    return len(_TOKEN.findall(" ".join([*(message.content for message in prompt.messages or ()), prompt.text])))
