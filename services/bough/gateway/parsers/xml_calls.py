"""What the parsers have in common whose arguments are pairs of a key and a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bough.gateway.parsers.scanner import CallScanner, MarkerFinder, State
from bough.gateway.parsers.spec import ToolSpec
from bough.gateway.parsers.xml_arguments import XmlArguments, escape


class XmlCallScanner(CallScanner):
    """Reads keys and values; a subclass says what stands around them, and `_behind_value` is its state after one.

    Args:
        tools: Those that may be called.
        starts: Markers that begin a call, and the states that read on behind them.
        key_end: What stands behind a key.
        value_ends: What may stand behind a value.
    """

    def __init__(
        self, tools: Sequence[ToolSpec], starts: Mapping[str, State], *, key_end: str, value_ends: Sequence[str]
    ) -> None:
        super().__init__(tools, starts)
        self._key_end = MarkerFinder([key_end])
        self._value_end = MarkerFinder(value_ends)
        self._arguments = XmlArguments(True)
        self._key = ""

    def _say_call(self, name: str) -> None:
        self._say(name)
        self._drop_read()
        self._arguments = XmlArguments(self._tools[name].parameters)

    def _end_arguments(self) -> None:
        self._said.arguments(self._arguments.end())
        self._drop_read()

    def _read_key(self) -> bool:
        found = self._key_end.find(self._text, self._at)
        if found is None:
            return self._wait()
        place, marker = found
        self._key = self._text[self._at : place].strip()
        self._at = place + len(marker)
        self._drop_read()
        return self._behind_key()

    def _behind_key(self) -> bool:
        raise NotImplementedError

    def _begin_value(self) -> bool:
        self._drop_read()
        if not self._arguments.is_text(self._key):
            return self._go(self._read_value)
        self._said.arguments(self._arguments.key(self._key) + '"')
        return self._go(self._read_text)

    def _read_text(self) -> bool:
        """A string, given on while it comes."""
        found = self._value_end.find(self._text)
        end = found[0] if found else len(self._text) - self._value_end.partial(self._text)
        self._said.arguments(escape(self._text[:end]))
        self._at = end
        self._drop_read()
        if found is None:
            return self._wait()
        self._said.arguments('"')
        return self._end_value(found[1])

    def _read_value(self) -> bool:
        """A value whose type shows only when it is whole."""
        found = self._value_end.find(self._text, self._at)
        if found is None:
            self._at = len(self._text) - self._value_end.partial(self._text, self._at)
            return self._wait()
        key, text = self._key, self._text[: found[0]]
        self._said.arguments(self._arguments.key(key) + self._arguments.value(key, text))
        self._at = found[0]
        self._drop_read()
        return self._end_value(found[1])

    def _end_value(self, marker: str) -> bool:
        self._at = len(marker)
        self._drop_read()
        return self._go(self._behind_value)

    def _behind_value(self) -> bool:
        raise NotImplementedError
