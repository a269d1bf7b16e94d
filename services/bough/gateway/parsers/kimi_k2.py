"""Kimi K2: a section of calls, each with an id made of the tool's name and a number."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.scanner import CallScanner
from bough.gateway.parsers.spec import ToolSpec

SECTION_START, SECTION_END = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
START, ARGUMENTS, END = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"


class KimiK2Parser(CallScanner):
    """Reads `functions.NAME:0` and arguments between their markers; a call outside of a section is one as well."""

    _ends = (END,)

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {SECTION_START: self._read_start, START: self._read_name})

    def _read_start(self) -> bool:
        marker = self._next(START)
        if marker is None:
            return self._wait()
        return self._go(self._read_name) if marker else self._fail()

    def _read_name(self) -> bool:
        found = self._next_name(ARGUMENTS, prefix="functions.", is_numbered=True)
        if found is None:
            return self._wait()
        if not found[0]:
            return self._fail()
        self._say(found[0])
        return self._go(self._begin_arguments)

    def _behind_arguments(self) -> bool:
        marker = self._next(END)
        if marker is None:
            return self._wait()
        return self._go(self._read_section if marker else self._read_content)

    def _read_section(self) -> bool:
        self._drop_read()
        marker = self._next(START, SECTION_END)
        if marker is None:
            return self._wait()
        if marker == START:
            return self._begin(self._at, self._read_name)
        return self._go(self._read_content)
