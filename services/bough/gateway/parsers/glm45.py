"""GLM 4.5 and later: each call is the tool's name and pairs of `<arg_key>` and `<arg_value>`."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.spec import ToolSpec
from bough.gateway.parsers.xml_calls import XmlCallScanner

START, END = "<tool_call>", "</tool_call>"
KEY_START, KEY_END = "<arg_key>", "</arg_key>"
VALUE_START, VALUE_END = "<arg_value>", "</arg_value>"


class Glm45Parser(XmlCallScanner):
    """Reads `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`, with or without lines."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {START: self._read_name}, key_end=KEY_END, value_ends=(VALUE_END,))

    def _read_name(self) -> bool:
        found = self._next_name(KEY_START, END)
        if found is None:
            return self._wait()
        name, end = found
        if not name:
            return self._fail()
        self._at -= len(end)
        self._say_call(name)
        return self._go(self._behind_value)

    def _behind_value(self) -> bool:
        marker = self._next(KEY_START, END)
        if marker is None:
            return self._wait()
        if marker == KEY_START:
            return self._go(self._read_key)
        if not marker:
            return self._fail()
        self._end_arguments()
        return self._go(self._read_content)

    def _behind_key(self) -> bool:
        return self._go(self._read_value_start)

    def _read_value_start(self) -> bool:
        marker = self._next(VALUE_START)
        if marker is None:
            return self._wait()
        return self._begin_value() if marker else self._fail()
