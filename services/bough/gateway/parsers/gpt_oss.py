"""gpt-oss (harmony): messages with a header each; those on the channel `commentary` with a recipient are calls."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bough.gateway.parsers.scanner import WHITE_SPACE, CallScanner, MarkerFinder
from bough.gateway.parsers.spec import ToolSpec

START, CHANNEL, MESSAGE = "<|start|>", "<|channel|>", "<|message|>"
END, RETURN, CALL = "<|end|>", "<|return|>", "<|call|>"
MAX_HEADER = 512
"""Characters of a header; what is longer is none."""

_RECIPIENT = re.compile(r"(?:^|[ \t\r\n]|assistant)to=([^ \t\r\n<]+)")


def recipient_of(header: str) -> str | None:
    """Who a message is for; None for one that is for the user."""
    found = _RECIPIENT.search(header)
    return found[1] if found else None


class GptOssParser(CallScanner):
    """Reads `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{...}<|call|>`.

    The recipient may stand before the channel as well. Other messages are the reasoning parser's: their headers are
    taken for text here.
    """

    _ends = (CALL, END)

    def __init__(self, tools: Sequence[ToolSpec]) -> None:
        super().__init__(tools, {START: self._read_header, CHANNEL: self._read_header})
        self._header_end = MarkerFinder([MESSAGE])
        self._state = self._read_beginning

    def _read_beginning(self) -> bool:
        # The prompt ends with the role, so that a recipient may be the first thing that the model says.
        answer = self._text.lstrip(WHITE_SPACE)
        begins = "to=functions."
        if answer.startswith(begins):
            length = len(self._text) - len(answer) + len(begins)
            return self._begin(length, self._read_header)
        if not self._ended and begins.startswith(answer):
            return False
        return self._go(self._read_content)

    def _read_header(self) -> bool:
        found = self._header_end.find(self._text, max(self._unsaid, self._at - len(MESSAGE)))
        end = found[0] if found else len(self._text) - len(MESSAGE)
        if end > MAX_HEADER:
            return self._fail()
        if found is None:
            self._at = len(self._text)
            return self._wait()
        recipient = recipient_of(self._text[:end].removeprefix(CHANNEL).removeprefix(START))
        name = (recipient or "").removeprefix("functions.")
        if not (recipient or "").startswith("functions.") or name not in self._tools:
            return self._fail()
        self._at = end + len(MESSAGE)
        self._say(name)
        return self._go(self._begin_arguments)

    def _behind_arguments(self) -> bool:
        return self._wait() if self._next(*self._ends) is None else self._go(self._read_content)
