"""Programs: functions of a state, and the ways to run them."""

from __future__ import annotations

import asyncio
import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, Unpack, cast, overload

from bough.common.config import nearest
from bough.lang.backends.base import ROOT, Backend
from bough.lang.backends.trace import Trace
from bough.lang.batch import DEFAULT_CONCURRENCY, gather_results
from bough.lang.core import StateCore
from bough.lang.defaults import find_backend
from bough.lang.errors import ExpressionError, LangError, OutputError, TraceError
from bough.lang.example import placeholder
from bough.lang.graph import Graph
from bough.lang.result import Result
from bough.lang.running import Running
from bough.lang.sampling import Sampling, SamplingArguments, option_names
from bough.lang.state import AsyncState, State
from bough.lang.streaming import AsyncStream, Stream

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")

_RESERVED = frozenset({"backend", "var"})
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Call:
    """A program's arguments, and how it is to be run."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    defaults: Sampling


class Function(ABC, Generic[P, R]):
    """A program of model calls.

    Arguments of a run are those of the function, after the state; and sampling options, by name, for calls that do not
    say otherwise. Where the function has a parameter of an option's name, the name means the parameter.

    `run` and its like are for plain code, `arun` and its like are awaited; both run plain functions and async ones.
    """

    def __init__(self, program: Callable[..., Any]) -> None:
        functools.update_wrapper(cast("Any", self), program)
        self._program = program
        self._name = getattr(program, "__name__", "program")
        parameters = list(inspect.signature(program).parameters.values())
        if not parameters:
            raise ExpressionError(f"{self._name}: has no parameter, accepted is a state as the first one")
        if taken := sorted(_RESERVED & {parameter.name for parameter in parameters}):
            raise ExpressionError(f"{self._name}: a parameter is called {taken[0]}, which names an option of a run")
        self._signature = inspect.Signature(parameters[1:])
        self._takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """Those of the function after the state."""
        return self._signature.parameters

    async def arun(self, *args: Any, backend: Backend | str | None = None, **kwargs: Any) -> Result[R]:
        """Run the program.

        Raises:
            Exception: What the function raises, or the error of a call that it has not been told of.
        """
        call = self._bind(args, kwargs)
        async with self._started(find_backend(backend), call) as core:
            return await self._finished(core, call)

    def run(self, *args: Any, backend: Backend | str | None = None, **kwargs: Any) -> Result[R]:
        """As `arun`, for code that is not async."""
        return blocking(self.arun(*args, backend=backend, **kwargs))

    async def arun_batch(
        self,
        arguments: Iterable[Mapping[str, Any]],
        *,
        backend: Backend | str | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        progress: bool | None = None,
        raise_errors: bool = False,
        **defaults: Unpack[SamplingArguments],
    ) -> list[Result[R]]:
        """Run the program once for each set of arguments.

        Args:
            arguments: Keyword arguments of each run.
            backend: What to run on.
            concurrency: Runs at the same time, at most.
            progress: Show a bar; by default where standard error is a terminal.
            raise_errors: Raise the first error and cancel the rest. Else each failure is the `error` of its result.
            defaults: Sampling options for calls that do not say otherwise.

        Returns:
            Results in the order of the arguments.
        """
        chosen = find_backend(backend)
        # All are checked before the first one runs.
        calls = [self._bind((), {**defaults, **one}) for one in arguments]

        async def run_one(call: Call) -> Result[R]:
            async with self._started(chosen, call) as core:
                return await self._finished(core, call)

        runs = [functools.partial(run_one, call) for call in calls]
        return await gather_results(
            runs, concurrency=concurrency, progress=progress, raise_errors=raise_errors, title=self._name
        )

    def run_batch(
        self,
        arguments: Iterable[Mapping[str, Any]],
        *,
        backend: Backend | str | None = None,
        concurrency: int = DEFAULT_CONCURRENCY,
        progress: bool | None = None,
        raise_errors: bool = False,
        **defaults: Unpack[SamplingArguments],
    ) -> list[Result[R]]:
        """As `arun_batch`, for code that is not async."""
        options: dict[str, Any] = {"backend": backend, "concurrency": concurrency, "progress": progress, **defaults}
        return blocking(self.arun_batch(arguments, raise_errors=raise_errors, **options))

    def astream(
        self, *args: Any, backend: Backend | str | None = None, var: str | None = None, **kwargs: Any
    ) -> AsyncStream[R]:
        """Run the program and give its text as it comes: all of it, or that of the variable `var`."""
        call, chosen = self._bind(args, kwargs), find_backend(backend)

        @asynccontextmanager
        async def start() -> AsyncIterator[tuple[StateCore, Callable[[], Awaitable[Result[R]]]]]:
            async with self._started(chosen, call) as core:
                yield core, functools.partial(self._finished, core, call)

        return AsyncStream(start, var)

    def stream(
        self, *args: Any, backend: Backend | str | None = None, var: str | None = None, **kwargs: Any
    ) -> Stream[R]:
        """As `astream`, for code that is not async."""
        _refuse_in_event_loop()
        return Stream(self.astream(*args, backend=backend, var=var, **kwargs))

    async def atrace(self, *args: Any, **kwargs: Any) -> Graph:
        """What the program does, found by running it without a model: calls are answered by made-up values.

        Arguments that are not given are made up too. Control flow that depends on values goes one way only.

        Raises:
            TraceError: The program does not end, or does not take what was made up.
        """
        missing = {
            name: placeholder(name)
            for name, parameter in list(self.parameters.items())[len(args) :]
            if parameter.default is parameter.empty and parameter.kind in _NAMED and name not in kwargs
        }
        trace, call = Trace(), self._bind(args, {**missing, **kwargs})
        try:
            async with self._started(trace, call) as core:
                await self._finished(core, call)
                for state in core.running.states:
                    await state.settle()
        except Exception as error:
            if isinstance(error, LangError) and not isinstance(error, OutputError):
                raise
            raise TraceError(f"trace: the program does not go on with made-up values: {error!r}") from error
        return trace.graph

    def trace(self, *args: Any, **kwargs: Any) -> Graph:
        """As `atrace`, for code that is not async."""
        return blocking(self.atrace(*args, **kwargs))

    @abstractmethod
    async def _call(self, core: StateCore, call: Call) -> R:
        """Run the function on a state."""

    @asynccontextmanager
    async def _started(self, backend: Backend, call: Call) -> AsyncIterator[StateCore]:
        async with backend.open() as session:
            running = Running(session, call.defaults)
            try:
                yield StateCore(running, ROOT)
            finally:
                await running.close()

    async def _finished(self, core: StateCore, call: Call) -> Result[R]:
        value = await self._call(core, call)
        reached = core.reached()
        await core.running.finish()
        messages = [] if reached.error else await core.messages(reached)
        return Result(value=value, variables=dict(core.variables), text=core.transcript.text(), messages=messages)

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
        options = {name: kwargs[name] for name in option_names() if name in kwargs and name not in self.parameters}
        own = {name: value for name, value in kwargs.items() if name not in options}
        known = [*self.parameters, *option_names()]
        for name in own:
            if name not in self.parameters and not self._takes_any:
                raise ExpressionError(f"{self._name}: takes no {name}{nearest(name, known)}", field=name)
        try:
            self._signature.bind(*args, **own)
        except TypeError as error:
            raise ExpressionError(f"{self._name}: {error}") from None
        return Call(args, own, Sampling.of(options, self._name))


class PlainFunction(Function[P, R]):
    """A program that is a plain function; it runs in a thread of its own."""

    def __call__(self, s: State, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the program as a part of another one, on its state."""
        result: R = self._program(s, *args, **kwargs)
        return result

    async def _call(self, core: StateCore, call: Call) -> R:
        program = functools.partial(self._program, State(core), *call.args, **call.kwargs)
        value: R = await core.running.in_thread(program)
        return value


class AsyncFunction(Function[P, R]):
    """A program that is an async function."""

    def __call__(self, s: AsyncState, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:
        """Run the program as a part of another one, on its state."""
        result: Coroutine[Any, Any, R] = self._program(s, *args, **kwargs)
        return result

    async def _call(self, core: StateCore, call: Call) -> R:
        value: R = await self._program(AsyncState(core), *call.args, **call.kwargs)
        return value


@overload
def function(program: Callable[Concatenate[AsyncState, P], Coroutine[Any, Any, R]]) -> AsyncFunction[P, R]: ...


@overload
def function(program: Callable[Concatenate[State, P], R]) -> PlainFunction[P, R]: ...


def function(program: Callable[..., Any]) -> Function[..., Any]:
    """Make a program of a function whose first parameter is a `State`, or an `AsyncState` where it is async."""
    if inspect.iscoroutinefunction(program):
        return AsyncFunction(program)
    return PlainFunction(program)


def blocking(work: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine in an event loop of its own, which ends with it."""
    try:
        _refuse_in_event_loop()
    except RuntimeError:
        work.close()
        raise
    return asyncio.run(work)


def _refuse_in_event_loop() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    raise RuntimeError("run and its like wait, and an event loop runs in this thread: await arun instead")
