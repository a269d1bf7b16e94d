"""What a program adds to a state: text, calls, turns. Expressions are values; nothing runs until one is added."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeAlias, Unpack

from bough.lang.choices import ChoicesMethod
from bough.lang.errors import ExpressionError, MissingAwaitError, UnsupportedError
from bough.lang.output import Constraint, Reader, Scalar, constraint_of
from bough.lang.sampling import Sampling, SamplingArguments

if TYPE_CHECKING:
    from pydantic import BaseModel

Role = Literal["system", "user", "assistant"]

_CONSTRAINTS = ("regex", "json_schema", "ebnf", "schema", "dtype", "choices")


class GenArguments(SamplingArguments, total=False):
    """All that `gen` takes beside the variable's name. At most one of the last six may be given besides the method."""

    choices_method: ChoicesMethod | str
    choices: Sequence[str]
    regex: str
    ebnf: str
    json_schema: dict[str, Any] | str
    schema: type[BaseModel]
    dtype: Scalar


class Expression:
    """Base of all expressions; `+` puts them one after the other, with strings too."""

    __slots__ = ()

    def __add__(self, other: Addable) -> Sequenced:
        return Sequenced((*flat(self), *flat(other)))

    def __radd__(self, other: Addable) -> Sequenced:
        return Sequenced((*flat(other), *flat(self)))


@dataclass(frozen=True, slots=True)
class Text(Expression):
    """Text as it is."""

    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gen(Expression):
    """A call: the model goes on."""

    name: str | None
    sampling: Sampling
    constraint: Constraint | None
    reader: Reader


@dataclass(frozen=True, slots=True, kw_only=True)
class Select(Expression):
    """A call: the model says which of some texts it would go on with."""

    name: str | None
    choices: tuple[str, ...]
    method: ChoicesMethod


@dataclass(frozen=True, slots=True)
class RoleBegin(Expression):
    """The beginning of a turn in a chat."""

    role: Role


@dataclass(frozen=True, slots=True)
class RoleEnd(Expression):
    """The end of a turn in a chat."""

    role: Role


@dataclass(frozen=True, slots=True)
class Sequenced(Expression):
    """Expressions one after the other."""

    parts: tuple[Expression, ...]


Addable: TypeAlias = "str | Expression | Sequence[str | Expression]"
"""What can be added to a state."""


def flat(added: Addable) -> Iterator[Expression]:
    """The expressions in what is added, without sequences. ExpressionError where something is none."""
    if isinstance(added, str):
        if added:
            yield Text(added)
    elif isinstance(added, Sequenced):
        for part in added.parts:
            yield from flat(part)
    elif isinstance(added, Expression):
        yield added
    elif isinstance(added, list | tuple):
        for part in added:
            yield from flat(part)
    elif hasattr(added, "__await__"):
        raise MissingAwaitError(f"what is added is {added!r}: await it first")
    else:
        raise ExpressionError(f"what is added: got {added!r}, accepted are strings, expressions, and lists of them")


def gen(name: str | None = None, **arguments: Unpack[GenArguments]) -> Gen | Select:
    """Have the model go on; the text becomes part of the state and the value of a variable.

    Args:
        name: The variable; without one the text is only part of the state.
        arguments: Sampling options, which win over those of the run, and at most one constraint: `regex`, `ebnf`,
            `json_schema`, `schema` (a pydantic class, of which the variable is an instance), `dtype` (int, float, bool
            or str) or `choices`, which makes it a `select`.

    Raises:
        ExpressionError: Two constraints, or an unknown option.
    """
    given: dict[str, Any] = dict(arguments)
    method = given.pop("choices_method", None)
    constraints = {option: value for option in _CONSTRAINTS if (value := given.pop(option, None)) is not None}
    sampling = Sampling.of(given, "gen")
    if len(constraints) == 1 and "choices" in constraints:
        if given:
            raise ExpressionError(f"gen: {next(iter(given))} means nothing with choices", field=next(iter(given)))
        return select(name, constraints["choices"], choices_method=method)
    if method is not None:
        raise ExpressionError("gen: choices_method is given without choices", field="choices_method")
    constraint, reader = constraint_of(constraints)
    return Gen(name=name, sampling=sampling, constraint=constraint, reader=reader)


def select(
    name: str | None = None, choices: Sequence[str] = (), *, choices_method: ChoicesMethod | str | None = None
) -> Select:
    """Have the model say which of some texts it would go on with; that one becomes part of the state.

    Args:
        name: The variable.
        choices: Texts, no two alike and none empty.
        choices_method: By what one wins; by default the highest mean log probability of its tokens.

    Raises:
        ExpressionError: Something is wrong with the choices.
    """
    texts = (choices,) if isinstance(choices, str) else tuple(choices)
    if not texts or len(set(texts)) < len(texts) or not all(isinstance(text, str) and text for text in texts):
        accepted = "at least one text, no two alike and none empty"
        raise ExpressionError(f"choices: got {list(texts)!r}, accepted is {accepted}", field="choices")
    method = choices_method or ChoicesMethod.TOKEN_LENGTH_NORMALIZED
    if method not in list(ChoicesMethod):
        accepted = ", ".join(ChoicesMethod)
        raise ExpressionError(f"choices_method: got {method!r}, accepted are {accepted}", field="choices_method")
    return Select(name=name, choices=texts, method=ChoicesMethod(method))


def image(*_: object, **__: object) -> NoReturn:
    """Refused: the models that are served read text only."""
    raise UnsupportedError("image: models see no images yet; describe it in text")


def system(content: Addable = "") -> Sequenced:
    """A turn of the system."""
    return _turn("system", content)


def user(content: Addable = "") -> Sequenced:
    """A turn of the user."""
    return _turn("user", content)


def assistant(content: Addable = "") -> Sequenced:
    """A turn of the assistant, the only one in which a model speaks."""
    return _turn("assistant", content)


def system_begin() -> RoleBegin:
    """The beginning of a turn of the system."""
    return RoleBegin("system")


def system_end() -> RoleEnd:
    """Its end."""
    return RoleEnd("system")


def user_begin() -> RoleBegin:
    """The beginning of a turn of the user."""
    return RoleBegin("user")


def user_end() -> RoleEnd:
    """Its end."""
    return RoleEnd("user")


def assistant_begin() -> RoleBegin:
    """The beginning of a turn of the assistant."""
    return RoleBegin("assistant")


def assistant_end() -> RoleEnd:
    """Its end."""
    return RoleEnd("assistant")


def _turn(role: Role, content: Addable) -> Sequenced:
    return Sequenced((RoleBegin(role), *flat(content), RoleEnd(role)))
