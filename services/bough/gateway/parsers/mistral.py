"""Mistral: `[TOOL_CALLS]` with a JSON list of calls, or, in newer models, with a name and arguments."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.scanner import CallScanner, MarkerFinder
from bough.gateway.parsers.spec import ToolSpec

START, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"


class MistralParser(CallScanner):
    """Reads `[TOOL_CALLS][{"name": ..., "arguments": {...}}]` and `[TOOL_CALLS]NAME[ARGS]{...}`.

    The arguments may follow the name without `[ARGS]`, and an id behind `[CALL_ID]` may stand between.
    """

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {START: self._read_first})
        self._id_end = MarkerFinder([ARGUMENTS, "{"])

    def _read_first(self) -> bool:
        marker = self._next("[", "{")
        if marker is None:
            return self._wait()
        if marker == "{":
            self._at -= 1
        return self._begin_object() if marker else self._go(self._read_name)

    def _behind_object(self) -> bool:
        self._drop_read()
        marker = self._next(",", "]")
        if marker is None:
            return self._wait()
        return self._begin(self._at, self._begin_object) if marker == "," else self._go(self._read_content)

    def _read_name(self) -> bool:
        found = self._next_name(ARGUMENTS, CALL_ID, "{")
        if found is None:
            return self._wait()
        name, end = found
        if not name:
            return self._fail()
        self._say(name)
        if end == "{":
            self._at -= 1
        return self._go(self._read_id if end == CALL_ID else self._begin_arguments)

    def _read_id(self) -> bool:
        found = self._id_end.find(self._text, self._at)
        if found is None:
            return self._wait()
        place, marker = found
        self._at = place if marker == "{" else place + len(marker)
        return self._go(self._begin_arguments)
