"""A state: what a program has added to it, and what has come of that.

What a program does to a state is checked and noted at once, in the program's own thread, and done later, in the event
loop. So a mistake is raised where it is written, and nothing that a program adds makes it wait.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

from bough.lang.backends.base import Generation, Selection
from bough.lang.choices import ChoicesMethod, decide
from bough.lang.errors import ExpressionError, LangError, StateError, UnknownVariableError
from bough.lang.expressions import Addable, Expression, Gen, Role, RoleBegin, RoleEnd, Select, Text, flat
from bough.lang.lines import Line, calling_line
from bough.lang.produced import Produced
from bough.lang.running import Running
from bough.lang.sampling import MAX_TOKENS, Sampling
from bough.lang.steps import Step, StepQueue
from bough.lang.transcript import Transcript
from bough.lang.variables import Meta, Variable
from bough.lang.writer import Writer

_DEFAULTS = Sampling(max_tokens=MAX_TOKENS)


@dataclass(frozen=True, slots=True)
class Turn:
    """Where in a chat a program is, as far as it has been written."""

    is_chat: bool | None = None
    """None while nothing says whether the state is a chat."""
    role: Role | None = None


@dataclass(frozen=True, slots=True)
class Mark:
    """A place in a state, to go back to."""

    state: StateCore
    turn: Turn
    place: Variable
    """Gives the position in the backend, the length of the text, and the writer."""


class StateCore:
    """A state of a run.

    Args:
        running: The run.
        handle: Its number in the session; None while it is being made by a fork.
    """

    def __init__(self, running: Running, handle: int | None = None) -> None:
        self.running = running
        self.variables: dict[str, Variable] = {}
        self.transcript = Transcript()
        self._handle = handle
        self._queue = StepQueue(running, is_open=handle is not None, after_step=self._wake)
        self._writer = Writer()
        self._branched_at = 0
        """Characters of text that it had when it branched."""
        self._assigned: set[str] = set()
        """Names of variables that were made since."""
        self._turn = Turn()
        self._end = ""
        """How it ended: "released" or "joined"."""
        running.states[self] = None

    # Called by the program, in its own thread.

    @property
    def is_over(self) -> bool:
        """Nothing more can be added."""
        return bool(self._end) or self.running.is_closed

    def add(self, added: Addable) -> None:
        """Add text, calls and turns."""
        self._check_usable("added to")
        line, turn, expressions = calling_line(), self._turn, list(flat(added))
        for expression in expressions:
            turn = _turn_after(turn, expression)
        self._turn = turn
        steps = [self._step_of(expression, line) for expression in expressions]
        self.running.post(partial(self._queue.push, *steps))

    def get(self, name: str) -> Variable:
        """The variable of a name. UnknownVariableError where there is none."""
        if name not in self.variables:
            raise UnknownVariableError(name, self.variables)
        return self.variables[name]

    def assign(self, variable: Variable) -> None:
        """Make a variable known, in place of one of the same name."""
        if variable.name is not None:
            self.variables[variable.name] = variable
            self._assigned.add(variable.name)

    def fork(self, count: int) -> list[StateCore]:
        """Branches of this state."""
        if count < 1:
            raise ExpressionError(f"fork: got {count}, accepted is a number of branches from 1", field="fork")
        self._check_usable("forked")
        children = [self._branch() for _ in range(count)]

        def fail(error: BaseException) -> None:
            for child in children:
                child._queue.stop(error)

        self._do(partial(self._fork, children), fail)
        return children

    def join(self, children: Sequence[StateCore], *, append: bool) -> None:
        """End branches: their new variables become lists here and, with `append`, their new text part of this one's."""
        self._check_usable("joined into")
        for child in children:
            child._check_usable("joined")
        names = sorted({name for child in children for name in child._assigned})
        gathered = [(Variable(name), [child.variables.get(name) for child in children]) for name in names]
        for child in children:
            child._end = "joined"
            if append and self._turn.is_chat is None:
                self._turn = Turn(is_chat=child._turn.is_chat)
        for variable, _ in gathered:
            self.assign(variable)

        def fail(error: BaseException) -> None:
            for variable, _ in gathered:
                variable.fail(error)

        self._do(partial(self._join, children, gathered, append), fail)

    def release(self) -> None:
        """Give it up: what is under way is cancelled."""
        if not self.is_over:
            self._end = "released"
            self.running.post(self._release)

    def mark(self) -> Mark:
        """The place where it is now."""
        self._check_usable("marked")
        mark = Mark(self, self._turn, Variable(None))
        self._do(partial(self._mark, mark.place), mark.place.fail)
        return mark

    def rollback(self, mark: Mark) -> None:
        """Forget the text that was added since a mark; variables stay."""
        self._check_usable("rolled back")
        if mark.state is not self:
            raise StateError("rollback: the mark is of another state")
        self._turn = mark.turn
        self._do(partial(self._rollback, mark.place))

    def capture(self, name: str) -> Callable[[], None]:
        """Begin to capture text; what is returned ends it and makes it a variable."""
        self._check_usable("captured from")
        begin, captured = Variable(None), Variable(name)

        async def note() -> None:
            begin.set(self.transcript.length)

        async def cut() -> None:
            captured.set(self.transcript.text(begin.get()))

        def end() -> None:
            self.assign(captured)
            self._do(cut, captured.fail)

        self._do(note)
        return end

    def reached(self) -> Variable:
        """Is there when everything is done that was added before."""
        variable = Variable(None, self.transcript)

        async def reach() -> None:
            variable.set(None)

        self._do(reach, variable.fail)
        return variable

    # Awaited in the event loop.

    async def value(self, variable: Variable) -> Any:
        """The value of a variable; raises the error of its call."""
        await variable.wait()
        if variable.error is not None:
            self.running.saw(variable.error)
        return variable.get()

    async def meta(self, variable: Variable) -> Meta:
        """What is known of the call that gave a variable; raises its error."""
        await self.value(variable)
        return variable.get_meta()

    async def text(self, reached: Variable) -> str:
        """The text, from when something was reached."""
        await self.value(reached)
        return self.transcript.text()

    async def messages(self, reached: Variable) -> list[dict[str, str]]:
        """The turns of a chat as OpenAI's API writes them, from when something was reached."""
        await self.value(reached)
        return [{"role": message.role, "content": message.content} for message in self._writer.messages()]

    async def follow(self, until: Variable, wants: Callable[[object], bool]) -> AsyncGenerator[str, None]:
        """Texts as they come, from the first one on, until a variable is there; raises its error."""
        if until.transcript is not None:
            async with aclosing(until.transcript.follow(lambda: until.is_done, wants)) as texts:
                async for text in texts:
                    yield text
        await self.value(until)

    async def follow_variable(self, variable: Variable) -> AsyncGenerator[str, None]:
        """The text of a variable as it comes; raises the error of its call."""
        is_told = False
        async with aclosing(self.follow(variable, lambda source: source is variable)) as texts:
            async for text in texts:
                is_told = True
                yield text
        value = variable.get()
        if not is_told and not isinstance(value, str):
            raise LangError(f"text_iter: {variable.name} is no text but {type(value).__name__}", field=variable.name)
        if not is_told and value:
            yield value

    async def settle(self) -> int:
        """Tell the backend what it does not know; returns the state's number."""
        assert self._handle is not None
        for content in self._writer.take():
            await self.running.session.extend(self._handle, content)
        return self._handle

    # Done in the event loop.

    def _branch(self) -> StateCore:
        child = StateCore(self.running)
        child.variables = dict(self.variables)
        child._turn = self._turn
        return child

    def _check_usable(self, what: str) -> None:
        if self._end:
            raise StateError(f"a state that was {self._end} cannot be {what}")

    def _do(self, run: Callable[[], Awaitable[None]], fail: Callable[[BaseException], None] | None = None) -> None:
        step = Step(run, fail or (lambda _: None), calling_line())
        self.running.post(partial(self._queue.push, step))

    def _step_of(self, expression: Expression, line: Line) -> Step:
        variable = Variable(None, self.transcript)
        if isinstance(expression, Gen | Select):
            variable.name = expression.name
            self.assign(variable)
        return Step(partial(self._write, expression, variable), variable.fail, line)

    async def _write(self, expression: Expression, variable: Variable) -> None:
        match expression:
            case Text(text):
                self._writer.text(text)
                self.transcript.add(text)
            case RoleBegin(role):
                self._writer.begin(role)
            case RoleEnd():
                self._writer.end()
            case Gen():
                await self._generate(expression, variable)
            case Select():
                await self._select(expression, variable)

    async def _generate(self, gen: Gen, variable: Variable) -> None:
        sampling = gen.sampling.over(self.running.defaults).over(_DEFAULTS)
        handle = await self.settle()
        produced = Produced(sampling.n or 1)
        call = Generation(name=gen.name, sampling=sampling, constraint=gen.constraint)
        async with aclosing(self.running.session.generate(handle, call)) as pieces:
            async for piece in pieces:
                produced.add(piece)
                if sampling.is_single:
                    self.transcript.add(piece.text, variable)
        meta = produced.meta()
        values = [gen.reader.read(*entry) for entry in zip(produced.texts, meta.finish_reasons, strict=True)]
        if sampling.is_single:
            self._writer.produced(produced.texts[0])
        variable.set(values[0] if sampling.is_single else values, meta)

    async def _select(self, select: Select, variable: Variable) -> None:
        handle = await self.settle()
        unconditional = select.method is ChoicesMethod.UNCONDITIONAL_LIKELIHOOD_NORMALIZED
        call = Selection(name=select.name, choices=select.choices, unconditional=unconditional)
        scores = decide(select.choices, await self.running.session.select(handle, call), select.method)
        self._writer.text(scores[0].choice)
        self.transcript.add(scores[0].choice, variable)
        variable.set(scores[0].choice, Meta(scores=tuple(scores)))

    async def _fork(self, children: Sequence[StateCore]) -> None:
        handle = await self.settle()
        session, text = self.running.session, self.transcript.text()
        unwanted = []
        for child, number in zip(children, await session.fork(handle, len(children)), strict=True):
            if child._queue.error is not None:
                unwanted.append(number)
            child._handle = number
            child._writer = self._writer.branch()
            child.transcript.add(text)
            child._branched_at = len(text)
            child._queue.open()
        if unwanted:
            await session.release(unwanted)

    async def _join(
        self,
        children: Sequence[StateCore],
        gathered: Sequence[tuple[Variable, Sequence[Variable | None]]],
        append: bool,
    ) -> None:
        handles = []
        for child in children:
            await child._queue.idle()
            if child._queue.error is not None:
                raise child._queue.error
            assert child._handle is not None
            handles.append(await child.settle() if append else child._handle)
        here = await self.settle()
        if append:
            # Checked before the backend is told, so that it is told nothing that is refused.
            writer = self._writer.snapshot()
            for child in children:
                writer.absorb(child._writer)
            self._writer = writer
        await self.running.session.join(here, handles, append=append)
        for child in children:
            self.running.states.pop(child, None)
            if append:
                self.transcript.add(child.transcript.text(child._branched_at))
        for variable, sources in gathered:
            variable.set([None if source is None else source.get() for source in sources])

    def stop(self, error: BaseException) -> None:
        """Do nothing more; what is not done fails with this error."""
        self._queue.stop(error)

    def _release(self) -> None:
        self.running.states.pop(self, None)
        self.stop(StateError("a state was released before this was done"))
        if self._handle is not None:
            self.running.start(self._give_up(self._handle))

    async def _give_up(self, handle: int) -> None:
        await self._queue.idle()
        try:
            await self.running.session.release([handle])
        except Exception as error:
            self.running.failed(error)

    async def _mark(self, place: Variable) -> None:
        handle = await self.settle()
        position = await self.running.session.position(handle)
        place.set((position, self.transcript.length, self._writer.snapshot()))

    async def _rollback(self, place: Variable) -> None:
        position, length, writer = place.get()
        assert self._handle is not None
        await self.running.session.rollback(self._handle, position)
        self.transcript.cut(length)
        self._writer = writer.snapshot()

    def _wake(self) -> None:
        self.transcript.wake()


def _turn_after(turn: Turn, expression: Expression) -> Turn:
    """Where a program is after an expression. ExpressionError where it cannot stand here."""
    match expression:
        case RoleBegin(role):
            if turn.is_chat is False:
                raise ExpressionError(
                    f"{role}: a turn cannot follow plain text; a state is one or the other", field=role
                )
            if turn.role is not None:
                raise ExpressionError(f"{role}: a turn cannot begin within one of {turn.role}", field=role)
            return Turn(is_chat=True, role=role)
        case RoleEnd(role):
            if turn.role != role:
                where = "outside of a turn" if turn.role is None else f"within one of {turn.role}"
                raise ExpressionError(f"{role}: a turn cannot end {where}", field=role)
            return Turn(is_chat=True)
        case Gen() | Select():
            if turn.is_chat and turn.role != "assistant":
                where = "outside of a turn" if turn.role is None else f"in a turn of {turn.role}"
                raise ExpressionError(f"gen and select: {where}; in a chat the model speaks as the assistant only")
        case Text(text):
            if turn.is_chat and turn.role is None:
                raise ExpressionError(f"text: {text[:40]!r} is outside of a turn, and this state is a chat")
    return turn if turn.is_chat else Turn(is_chat=False)
