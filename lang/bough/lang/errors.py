"""What can be wrong with a program of model calls; errors of a backend come from `bough.common.errors` as they are.

LangError
├── ExpressionError        what is added cannot be: two constraints, text outside of a role, an unknown option
├── StateError             a state that was released or joined is used again
├── UnknownVariableError   no variable has this name
├── OutputError            what the model wrote does not read as the type that was asked for
├── UnsupportedError       this backend cannot do it
├── MissingAwaitError      a value of an async program is used before it was awaited
└── TraceError             a program cannot be drawn
"""

from __future__ import annotations

from collections.abc import Iterable

from bough.common.errors import InvalidRequestError


class LangError(InvalidRequestError):
    """Base of all errors of the language."""


class ExpressionError(LangError):
    """Something that cannot be added to a state; raised where it is made or added."""


class StateError(LangError):
    """A state is used after it was released or joined."""


class UnknownVariableError(LangError):
    """A variable is read that nothing has made."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        shown = ", ".join(sorted(known)) or "none"
        super().__init__(f"variable: {name!r} is not there, known are: {shown}", field=name)


class OutputError(LangError):
    """The model's text does not read as what was asked for.

    Args:
        message: What was expected.
        text: The model's text.
        finish_reason: Why it ended; `length` where it was cut off.
    """

    def __init__(self, message: str, *, text: str, finish_reason: str) -> None:
        super().__init__(f"{message}; the model wrote {text!r} and ended with {finish_reason!r}")
        self.text = text
        self.finish_reason = finish_reason


class UnsupportedError(LangError):
    """The backend cannot do what the program asks for; the message says what can."""


class MissingAwaitError(LangError, TypeError):
    """A value of an async program is used as if it were there."""


class TraceError(LangError):
    """A program cannot be drawn, because it does not end or does not go on with made-up values."""
