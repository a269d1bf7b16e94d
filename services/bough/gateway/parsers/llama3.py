"""Llama 3.1 to 3.3: calls are JSON objects behind `<|python_tag|>`, or bare ones that the answer begins with."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.scanner import WHITE_SPACE, CallScanner
from bough.gateway.parsers.spec import ToolSpec

START = "<|python_tag|>"


class Llama3Parser(CallScanner):
    """Reads `{"name": ..., "parameters": {...}}`, several of them with `;` between.

    A bare object whose first key is none of a call's is an answer in JSON, and given on from there.
    """

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {START: self._begin_object})
        self._state = self._read_start

    def _read_start(self) -> bool:
        answer = self._text.lstrip(WHITE_SPACE)
        if not answer:
            return self._ended and self._go(self._read_content)
        if not answer.startswith("{"):
            return self._go(self._read_content)
        return self._begin_bare(len(self._text) - len(answer))

    def _begin_bare(self, at: int) -> bool:
        self._begin(at + 1, self._read_object)
        self._at = at
        return self._begin_object(only_known_keys=True)

    def _behind_object(self) -> bool:
        self._drop_read()
        marker = self._next(";", "{")
        if marker is None:
            return self._wait()
        if not marker:
            return self._go(self._read_content)
        return self._begin_bare(self._at - 1) if marker == "{" else self._begin(self._at, self._behind_semicolon)

    def _behind_semicolon(self) -> bool:
        marker = self._next(START, "{")
        if marker is None:
            return self._wait()
        if marker == "{":
            self._at -= 1
        return self._begin_object(only_known_keys=True) if marker else self._fail()
