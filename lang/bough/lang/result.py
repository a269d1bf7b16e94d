"""What a run of a program gives."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from bough.lang.errors import UnknownVariableError
from bough.lang.variables import Meta, Variable

R = TypeVar("R")


class Result(Generic[R]):
    """The end of a program's state and what the function returned. Of a run that failed, reading raises its error.

    Args:
        value: What the function returned.
        variables: Those of the program's state.
        text: The text of the state.
        messages: Its turns, where it is a chat.
        error: Why the run failed.
    """

    __slots__ = ("_messages", "_text", "_value", "_variables", "error")

    def __init__(
        self,
        *,
        value: R | None = None,
        variables: Mapping[str, Variable] | None = None,
        text: str = "",
        messages: list[dict[str, str]] | None = None,
        error: Exception | None = None,
    ) -> None:
        self.error = error
        """None where the run did not fail."""
        self._value = value
        self._variables = variables or {}
        self._text = text
        self._messages = messages or []

    @property
    def value(self) -> R:
        """What the function returned."""
        self._check()
        return self._value  # type: ignore[return-value]

    def __getitem__(self, name: str) -> Any:
        return self._variable(name).get()

    def __contains__(self, name: str) -> bool:
        return name in self._variables

    def __iter__(self) -> Iterator[str]:
        """Names of the variables."""
        self._check()
        return iter(self._variables)

    def text(self) -> str:
        """The text; of a chat the contents of its turns, without the template's marks."""
        self._check()
        return self._text

    def messages(self) -> list[dict[str, str]]:
        """The turns of a chat, as OpenAI's API writes them."""
        self._check()
        return self._messages

    def meta(self, name: str) -> Meta:
        """What is known of the call that made a variable: finish reason, tokens, log probabilities, scores."""
        return self._variable(name).get_meta()

    def __repr__(self) -> str:
        if self.error is not None:
            return f"<Result failed: {self.error!r}>"
        return f"<Result of {', '.join(self._variables) or 'no variables'}>"

    def _variable(self, name: str) -> Variable:
        self._check()
        if name not in self._variables:
            raise UnknownVariableError(name, self._variables)
        return self._variables[name]

    def _check(self) -> None:
        if self.error is not None:
            raise self.error
