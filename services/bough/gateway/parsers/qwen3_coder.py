"""Qwen3-Coder: each call is an element `function` whose arguments are elements `parameter`."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.spec import ToolSpec
from bough.gateway.parsers.xml_calls import XmlCallScanner

START, END = "<tool_call>", "</tool_call>"
FUNCTION_START, FUNCTION_END = "<function=", "</function>"
PARAMETER_START, PARAMETER_END = "<parameter=", "</parameter>"


class Qwen3CoderParser(XmlCallScanner):
    """Reads `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.

    One line break at each end of a value belongs to the format. A function without `<tool_call>` is a call as well:
    models leave it out now and then.
    """

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        starts = {START: self._read_start, FUNCTION_START: self._read_name}
        super().__init__(tools, starts, key_end=">", value_ends=("\n" + PARAMETER_END, PARAMETER_END))

    def _read_start(self) -> bool:
        marker = self._next(FUNCTION_START)
        if marker is None:
            return self._wait()
        return self._go(self._read_name) if marker else self._fail()

    def _read_name(self) -> bool:
        found = self._next_name(">")
        if found is None:
            return self._wait()
        if not found[0]:
            return self._fail()
        self._say_call(found[0])
        return self._go(self._behind_value)

    def _behind_value(self) -> bool:
        marker = self._next(PARAMETER_START, FUNCTION_END, END)
        if marker is None:
            return self._wait()
        if marker == PARAMETER_START:
            return self._go(self._read_key)
        if not marker:
            return self._fail()
        self._end_arguments()
        return self._go(self._read_content if marker == END else self._behind_function)

    def _behind_key(self) -> bool:
        return self._go(self._read_line_break)

    def _read_line_break(self) -> bool:
        if not self._text:
            return self._wait()
        self._at = 1 if self._text.startswith("\n") else 0
        return self._begin_value()

    def _behind_function(self) -> bool:
        return self._wait() if self._next(END) is None else self._go(self._read_content)
