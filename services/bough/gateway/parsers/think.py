"""Thoughts between two markers at the beginning of a text, such as `<think>` and `</think>`."""

from __future__ import annotations

from collections.abc import Sequence

from bough.gateway.parsers.base import Delta
from bough.gateway.parsers.scanner import WHITE_SPACE, MarkerFinder

START, END = "<think>", "</think>"


class ThinkParser:
    """Reads `<think>...</think>` and the answer behind it.

    One line break behind `<think>` and all of them behind `</think>` belong to the format. Only what the text begins
    with is a thought: a marker in the answer is text.

    Args:
        is_open: The text begins in the thoughts; a `<think>` there opens them once more.
        call_starts: What begins tool calls, in models that go over to them without closing their thoughts.
    """

    def __init__(self, is_open: bool, call_starts: Sequence[str] = ()) -> None:
        self._is_open = is_open
        self._text = ""
        self._ended = False
        self._end = MarkerFinder([END, *call_starts])
        self._read = self._read_start

    def feed(self, text: str) -> Delta:
        """What the next piece of text adds."""
        self._text += text
        return self._read()

    def finish(self) -> Delta:
        """What was kept back, when the text has ended."""
        self._ended = True
        return self._read()

    def _read_start(self) -> Delta:
        behind_space = self._text.lstrip(WHITE_SPACE)
        if behind_space.startswith(START):
            self._text = behind_space[len(START) :]
        elif START.startswith(behind_space) and not self._ended:
            return Delta()
        elif not self._is_open:
            self._read = self._read_answer
            return self._read()
        self._read = self._read_line_break
        return self._read()

    def _read_line_break(self) -> Delta:
        if not self._text:
            return Delta()
        self._text = self._text.removeprefix("\n")
        self._read = self._read_thoughts
        return self._read()

    def _read_thoughts(self) -> Delta:
        found = self._end.find(self._text)
        if found is None:
            kept = 0 if self._ended else self._end.partial(self._text)
            thoughts, self._text = self._text[: len(self._text) - kept], self._text[len(self._text) - kept :]
            return Delta(reasoning=thoughts)
        place, marker = found
        thoughts = self._text[:place]
        is_closed = marker == END
        self._text = self._text[place + len(END) if is_closed else place :]
        self._read = self._read_line_breaks if is_closed else self._read_answer
        return Delta(reasoning=thoughts, content=self._read().content)

    def _read_line_breaks(self) -> Delta:
        self._text = self._text.lstrip("\n")
        if not self._text:
            return Delta()
        self._read = self._read_answer
        return self._read()

    def _read_answer(self) -> Delta:
        answer, self._text = self._text, ""
        return Delta(content=answer)
