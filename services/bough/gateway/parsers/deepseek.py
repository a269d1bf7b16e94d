"""DeepSeek V3, R1 and V3.1: calls between markers, the arguments in a code fence or, since V3.1, bare."""

# ruff: noqa: RUF001 -- the markers have such bars

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.scanner import CallScanner
from bough.gateway.parsers.spec import ToolSpec

SECTION_START, SECTION_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
START, SEPARATOR, END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
TYPE = "function"
"""What a call of the older form begins with."""
FENCE_START, FENCE_END = "```json", "```"


class DeepSeekParser(CallScanner):
    """Reads both forms; a call outside of a section is one as well."""

    _ends = (END, FENCE_END)

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {SECTION_START: self._read_start, START: self._read_type})

    def _read_start(self) -> bool:
        marker = self._next(START)
        if marker is None:
            return self._wait()
        return self._go(self._read_type) if marker else self._fail()

    def _read_type(self) -> bool:
        marker = self._next(TYPE + SEPARATOR)
        if marker is None:
            return self._wait()
        return self._go(self._read_fenced_name if marker else self._read_bare_name)

    def _read_fenced_name(self) -> bool:
        # A tool may be called "function": what stands behind it is then no name but the arguments.
        if TYPE in self._tools and self._next("{"):
            self._at -= 1
            self._say(TYPE)
            return self._go(self._begin_arguments)
        return self._read_name(FENCE_START)

    def _read_bare_name(self) -> bool:
        return self._read_name(SEPARATOR)

    def _read_name(self, end: str) -> bool:
        found = self._next_name(end)
        if found is None:
            return self._wait()
        if not found[0]:
            return self._fail()
        self._say(found[0])
        return self._go(self._begin_arguments)

    def _behind_arguments(self) -> bool:
        marker = self._next(END, FENCE_END)
        if marker is None:
            return self._wait()
        if marker == FENCE_END:
            return True
        return self._go(self._read_section if marker else self._read_content)

    def _read_section(self) -> bool:
        self._drop_read()
        marker = self._next(START, SECTION_START, SECTION_END)
        if marker is None:
            return self._wait()
        if marker == START:
            return self._begin(self._at, self._read_type)
        if marker == SECTION_START:
            return self._begin(self._at, self._read_start)
        return self._go(self._read_content)
