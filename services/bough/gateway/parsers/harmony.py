"""Thoughts of gpt-oss (harmony): messages on the channel `analysis`; the format of the calls is in `gpt_oss`."""

from __future__ import annotations

from enum import Enum

from bough.gateway.parsers.base import Delta
from bough.gateway.parsers.gpt_oss import CALL, CHANNEL, END, MAX_HEADER, MESSAGE, RETURN, START, recipient_of
from bough.gateway.parsers.scanner import WHITE_SPACE, MarkerFinder

ANALYSIS_START = f"{CHANNEL}analysis{MESSAGE}"

_RECIPIENT = "to="


class _Part(Enum):
    """What a piece of text is of."""

    REASONING = "a message on `analysis`"
    CONTENT = "any other message for the user, or text that is in no message"
    CALL = "a message for a tool, which goes on unchanged"


class HarmonyParser:
    """Tells messages by their headers.

    Messages of a kind that follow one another are joined by a line break.

    Args:
        is_open: The prompt ended with the header of a message on `analysis`.
    """

    def __init__(self, is_open: bool) -> None:
        self._text = ""
        self._ended = False
        self._header_start = MarkerFinder([START, CHANNEL])
        self._header_end = MarkerFinder([MESSAGE])
        self._body_end = MarkerFinder([END, RETURN, CALL, START, CHANNEL])
        self._part = _Part.REASONING if is_open else _Part.CONTENT
        self._read = self._read_body if is_open else self._read_beginning
        self._reasoning = ""
        self._content = ""
        self._has_said: set[_Part] = set()
        self._is_new_message = False

    def feed(self, text: str) -> Delta:
        """What the next piece of text adds."""
        self._text += text
        return self._run()

    def finish(self) -> Delta:
        """What was kept back, when the text has ended."""
        self._ended = True
        return self._run()

    def _run(self) -> Delta:
        while self._read():
            pass
        delta = Delta(content=self._content, reasoning=self._reasoning)
        self._content = self._reasoning = ""
        return delta

    # States: True to have the next one run at once, False for more text.

    def _read_beginning(self) -> bool:
        # The prompt ends with the role, so that a recipient may come before the first channel.
        answer = self._text.lstrip(WHITE_SPACE)
        if not self._ended and _RECIPIENT.startswith(answer):
            return False
        self._read = self._read_header if answer.startswith(_RECIPIENT) else self._read_between
        return True

    def _read_between(self) -> bool:
        """Text in front of a header; a well-formed output has none."""
        found = self._header_start.find(self._text)
        if found is None:
            self._say(self._take(self._end_of_certain(self._header_start)))
            return False
        self._say(self._take(found[0]))
        self._read = self._read_header
        return True

    def _read_header(self) -> bool:
        found = self._header_end.find(self._text)
        end = found[0] if found else len(self._text) - len(MESSAGE)
        if end > MAX_HEADER or (found is None and self._ended):
            return self._fail()
        if found is None:
            return False
        header = self._take(end + len(MESSAGE))
        self._is_new_message = True
        if recipient_of(header[:end].removeprefix(START).removeprefix(CHANNEL)):
            self._part = _Part.CALL
            self._say(header)
        else:
            is_analysis = header.rpartition(CHANNEL)[2].startswith("analysis")
            self._part = _Part.REASONING if is_analysis else _Part.CONTENT
        self._read = self._read_body
        return True

    def _fail(self) -> bool:
        """No header: what it began with is text."""
        first = self._header_start.find(self._text)
        self._part = _Part.CONTENT
        self._say(self._take(len(first[1]) if first and first[0] == 0 else len(_RECIPIENT)))
        self._read = self._read_between
        return True

    def _read_body(self) -> bool:
        found = self._body_end.find(self._text)
        if found is None:
            self._say(self._take(self._end_of_certain(self._body_end)))
            return False
        place, marker = found
        self._say(self._take(place))
        if marker in (START, CHANNEL):
            self._read = self._read_header
            return True
        end = self._take(len(marker))
        if self._part is _Part.CALL:
            self._say(end)
        self._part = _Part.CONTENT
        self._is_new_message = True
        self._read = self._read_between
        return True

    def _end_of_certain(self, finder: MarkerFinder) -> int:
        return len(self._text) - (0 if self._ended else finder.partial(self._text))

    def _take(self, end: int) -> str:
        taken, self._text = self._text[:end], self._text[end:]
        return taken

    def _say(self, text: str) -> None:
        if not text:
            return
        if self._part is not _Part.CALL and self._is_new_message and self._part in self._has_said:
            text = "\n" + text
        self._has_said.add(self._part)
        self._is_new_message = False
        if self._part is _Part.REASONING:
            self._reasoning += text
        else:
            self._content += text
