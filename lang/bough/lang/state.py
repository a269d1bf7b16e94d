"""What a program works with: a state, which takes text and calls and gives variables; for plain and async programs.

Nothing that is added waits. `State` waits where something is read, `AsyncState` gives an awaitable there.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator
from typing import Any, Generic, NoReturn, Self, TypeVar

from bough.lang.core import Mark, StateCore
from bough.lang.errors import ExpressionError, MissingAwaitError
from bough.lang.expressions import Addable, Role, RoleBegin, RoleEnd
from bough.lang.variables import Meta, Variable

S = TypeVar("S", bound="BaseState")
T = TypeVar("T")


class BaseState:
    """What both kinds of states have: all that never waits. As a context manager it is released at the end.

    Args:
        core: The state itself.
    """

    __slots__ = ("_core",)

    def __init__(self, core: StateCore) -> None:
        self._core = core

    def __iadd__(self, added: Addable) -> Self:
        self._core.add(added)
        return self

    def __setitem__(self, name: str, value: object) -> None:
        self._core.assign(Variable.of(name, value))

    def __contains__(self, name: str) -> bool:
        return name in self._core.variables

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def system(self) -> _Turn:
        """A turn of the system: `with s.system(): …`."""
        return _Turn(self._core, "system")

    def user(self) -> _Turn:
        """A turn of the user."""
        return _Turn(self._core, "user")

    def assistant(self) -> _Turn:
        """A turn of the assistant, the only one in which a model speaks."""
        return _Turn(self._core, "assistant")

    def var_scope(self, name: str) -> _Scope:
        """All text that is added within becomes a variable: `with s.var_scope("name"): …`."""
        return _Scope(self._core, name)

    def fork(self, count: int = 1) -> Group[Self]:
        """Branches of this state, which go on side by side."""
        return Group(self, [type(self)(core) for core in self._core.fork(count)])

    def copy(self) -> Self:
        """One branch: `with s.copy() as attempt: …` releases it at the end."""
        return type(self)(self._core.fork(1)[0])

    def mark(self) -> Mark:
        """The place where the state is now, for `rollback`."""
        return self._core.mark()

    def rollback(self, mark: Mark) -> None:
        """Forget the text that was added since a mark. Variables stay."""
        self._core.rollback(mark)

    def release(self) -> None:
        """Give the state up: calls under way are cancelled. Variables that are there can still be read."""
        self._core.release()


class State(BaseState):
    """A state of a plain program, which runs in a thread of its own. Reading waits."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Any:
        variable = self._core.get(name)
        if variable.is_done and variable.error is None:
            return variable.get()
        return self._wait(self._core.value(variable))

    def text(self) -> str:
        """The text so far; of a chat the contents of its turns, without the template's marks."""
        return self._wait(self._core.text(self._core.reached()))

    def messages(self) -> list[dict[str, str]]:
        """The turns of a chat so far, as OpenAI's API writes them."""
        return self._wait(self._core.messages(self._core.reached()))

    def meta(self, name: str) -> Meta:
        """What is known of the call that made a variable: finish reason, tokens, log probabilities, scores."""
        return self._wait(self._core.meta(self._core.get(name)))

    def sync(self) -> None:
        """Wait until everything is done that was added so far."""
        self._wait(self._core.value(self._core.reached()))

    def text_iter(self, name: str | None = None) -> Iterator[str]:
        """The text as it comes: of a variable, or of all that was added so far."""
        texts = _texts(self._core, name)
        try:
            while True:
                try:
                    text = self._wait(texts.__anext__())
                except StopAsyncIteration:
                    return
                yield text
        finally:
            if not self._core.running.is_closed:
                self._wait(texts.aclose())

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return self._core.running.wait(work)


class AsyncState(BaseState):
    """A state of an async program. What is read is awaited: `await s["x"]`, `await s.text()`."""

    __slots__ = ()

    def __getitem__(self, name: str) -> Value:
        return Value(self._core, self._core.get(name))

    async def text(self) -> str:
        """The text so far; of a chat the contents of its turns, without the template's marks."""
        return await self._core.text(self._core.reached())

    async def messages(self) -> list[dict[str, str]]:
        """The turns of a chat so far, as OpenAI's API writes them."""
        return await self._core.messages(self._core.reached())

    async def meta(self, name: str) -> Meta:
        """What is known of the call that made a variable: finish reason, tokens, log probabilities, scores."""
        return await self._core.meta(self._core.get(name))

    async def sync(self) -> None:
        """Wait until everything is done that was added so far."""
        await self._core.value(self._core.reached())

    def text_iter(self, name: str | None = None) -> AsyncIterator[str]:
        """The text as it comes: of a variable, or of all that was added so far."""
        return _texts(self._core, name)


class Value:
    """A variable of an async program: `await` gives its value."""

    __slots__ = ("_core", "_variable")

    def __init__(self, core: StateCore, variable: Variable) -> None:
        self._core = core
        self._variable = variable

    def __await__(self) -> Generator[Any, None, Any]:
        return self._core.value(self._variable).__await__()

    def __repr__(self) -> str:
        return f"<variable {self._variable.name!r}, to be awaited>"

    def __str__(self) -> NoReturn:
        raise self._missing_await()

    def __format__(self, spec: str) -> NoReturn:
        raise self._missing_await()

    def __bool__(self) -> NoReturn:
        raise self._missing_await()

    def __eq__(self, other: object) -> NoReturn:
        raise self._missing_await()

    __hash__ = object.__hash__

    def _missing_await(self) -> MissingAwaitError:
        name = self._variable.name
        return MissingAwaitError(f'{name}: is used without await; write (await s["{name}"])', field=name)


class Group(Generic[S]):
    """The branches of a fork. As a context manager it releases those that were not joined."""

    __slots__ = ("_parent", "_states")

    def __init__(self, parent: S, states: list[S]) -> None:
        self._parent = parent
        self._states = states

    def __iadd__(self, added: Addable | Callable[[int], Addable]) -> Self:
        if callable(added):
            for number, state in enumerate(self._states):
                state._core.add(added(number))
        elif isinstance(added, list):
            if len(added) != len(self._states):
                raise ExpressionError(f"group: got {len(added)} items, accepted are {len(self._states)}: one a branch")
            for state, item in zip(self._states, added, strict=True):
                state._core.add(item)
        else:
            for state in self._states:
                state._core.add(added)
        return self

    def __getitem__(self, number: int) -> S:
        return self._states[number]

    def __setitem__(self, number: int, state: S) -> None:
        # `group[i] += …` ends with an assignment of what it has changed.
        if state is not self._states[number]:
            raise ExpressionError(f"group: branch {number} cannot be replaced; add to it with +=")

    def __iter__(self) -> Iterator[S]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for state in self._states:
            state.release()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.__exit__()

    def join(self, *, append: bool = False) -> None:
        """End the branches: each variable they have made becomes a list on the state they come from.

        Args:
            append: Also add to that state what each branch has got since the fork, in their order.
        """
        self._parent._core.join([state._core for state in self._states], append=append)


class _Scope:
    def __init__(self, core: StateCore, name: str) -> None:
        self._core = core
        self._name = name

    def __enter__(self) -> None:
        self._end = self._core.capture(self._name)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not self._core.is_over:
            self._end()


class _Turn:
    def __init__(self, core: StateCore, role: Role) -> None:
        self._core = core
        self._role = role

    def __enter__(self) -> None:
        self._core.add(RoleBegin(self._role))

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not self._core.is_over:
            self._core.add(RoleEnd(self._role))


def _texts(core: StateCore, name: str | None) -> AsyncGenerator[str, None]:
    if name is None:
        return core.follow(core.reached(), lambda _: True)
    return core.follow_variable(core.get(name))
