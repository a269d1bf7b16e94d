"""Hermes, Qwen 2.5 and Qwen 3: each call is a JSON object between `<tool_call>` and `</tool_call>`."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.scanner import CallScanner
from bough.gateway.parsers.spec import ToolSpec

START, END = "<tool_call>", "</tool_call>"


class HermesParser(CallScanner):
    """Reads `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`."""

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {START: self._begin_object})

    def _behind_object(self) -> bool:
        return self._wait() if self._next(END) is None else self._go(self._read_content)
