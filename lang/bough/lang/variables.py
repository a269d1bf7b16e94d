"""Variables of a program: names for what calls give."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bough.client.types import TokenLogprob, Usage
from bough.lang.choices import ChoiceScore
from bough.lang.errors import LangError
from bough.lang.transcript import Signal, Transcript


@dataclass(frozen=True, slots=True, kw_only=True)
class Meta:
    """What is known of a call beside its text."""

    finish_reasons: tuple[str, ...] = ("stop",)
    """Of each continuation: `stop` or `length`."""
    logprobs: tuple[tuple[TokenLogprob, ...], ...] = ()
    """Of each continuation, where asked for."""
    usage: Usage = field(default_factory=Usage)
    scores: tuple[ChoiceScore, ...] = ()
    """Of a `select`: every choice, the best first."""

    @property
    def finish_reason(self) -> str:
        """That of the first continuation."""
        return self.finish_reasons[0]


class Variable:
    """A value that may still be on its way. Changed and awaited within one event loop.

    Args:
        name: What the program calls it; None where it has no name.
        transcript: Where its text comes, if it does.
    """

    __slots__ = ("_done", "_value", "error", "is_done", "meta", "name", "transcript")

    def __init__(self, name: str | None, transcript: Transcript | None = None) -> None:
        self.name = name
        self.transcript = transcript
        self.is_done = False
        self.error: BaseException | None = None
        self.meta: Meta | None = None
        self._value: Any = None
        self._done = Signal()

    @classmethod
    def of(cls, name: str, value: Any) -> Variable:
        """One that has its value."""
        variable = cls(name)
        variable._value, variable.is_done = value, True
        return variable

    def set(self, value: Any, meta: Meta | None = None) -> None:
        """The value is there."""
        if not self.is_done:
            self._value, self.meta = value, meta
            self._end()

    def fail(self, error: BaseException) -> None:
        """There will be no value."""
        if not self.is_done:
            self.error = error
            self._end()

    async def wait(self) -> None:
        """Until there is a value or an error."""
        while not self.is_done:
            await self._done.wait()

    def get(self) -> Any:
        """The value of one that is done; raises its error."""
        if self.error is not None:
            raise self.error
        return self._value

    def get_meta(self) -> Meta:
        """What is known of the call that gave the value of one that is done. LangError where none did."""
        self.get()
        if self.meta is None:
            raise LangError(f"meta: {self.name} is not the result of one gen or select", field=self.name)
        return self.meta

    def _end(self) -> None:
        self.is_done = True
        self._done.fire()
