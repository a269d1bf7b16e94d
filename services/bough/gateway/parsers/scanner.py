"""What the parsers of tool calls have in common: text that is cut anywhere, and a way back from what was no call.

A parser is a state machine whose states are methods. A state takes what it can from the text and returns True to have
the next state run at once, or False when it needs more text. From a marker on, all text is held until the tool's name
has been said; if it turns out that there is no call, the marker is content and the text behind it is read anew.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from bough.gateway.parsers.base import CallDelta, Delta
from bough.gateway.parsers.json_text import CallObject, JsonValue
from bough.gateway.parsers.spec import ToolSpec

WHITE_SPACE = " \t\r\n"

State = Callable[[], bool]

_SPACE = re.compile(r"[ \t\r\n]*")
_NUMBER = re.compile(r"(?::\d*)?[ \t\r\n]*")
"""Some formats number their calls behind the name."""


class MarkerFinder:
    """Finds markers in text, and beginnings of markers at its end."""

    def __init__(self, markers: Iterable[str]) -> None:
        self._markers = tuple(markers)
        longest_first = sorted(self._markers, key=len, reverse=True)
        # The pattern of no marker at all never matches.
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")
        self._longest = max(map(len, self._markers), default=0)
        self._first = "".join(sorted({marker[0] for marker in self._markers}))

    def find(self, text: str, at: int = 0) -> tuple[int, str] | None:
        """Place and text of the first marker."""
        found = self._pattern.search(text, at)
        return (found.start(), found[0]) if found else None

    def partial(self, text: str, at: int = 0) -> int:
        """Length of the longest end of the text that a marker may begin with."""
        for start in range(max(at, len(text) - self._longest + 1), len(text)):
            if text[start] in self._first and any(marker.startswith(text[start:]) for marker in self._markers):
                return len(text) - start
        return 0


class Said:
    """What a parser says, and the one rule for white space around calls.

    White space before a call is said only if more text follows the call; white space behind a call is dropped.
    """

    def __init__(self) -> None:
        self._content = ""
        self._calls: list[CallDelta] = []
        self._space = ""
        self._behind_call = False
        self._index = -1

    def content(self, text: str) -> None:
        """More of the answer."""
        if self._behind_call:
            text = text.lstrip(WHITE_SPACE)
        if text:
            self._behind_call = False
            text = self._space + text
            said = text.rstrip(WHITE_SPACE)
            self._content += said
            self._space = text[len(said) :]

    def name(self, name: str) -> None:
        """The beginning of a call."""
        self._index += 1
        self._behind_call = True
        self._calls.append(CallDelta(index=self._index, name=name))

    def arguments(self, text: str) -> None:
        """More of the arguments of the call that was begun last."""
        if not text:
            return
        last = CallDelta(index=self._index)
        if self._calls and self._calls[-1].index == self._index:
            last = self._calls.pop()
        self._calls.append(CallDelta(index=self._index, name=last.name, arguments=last.arguments + text))

    def end(self) -> None:
        """No more text comes."""
        if not self._behind_call:
            self._content += self._space
        self._space = ""

    def take(self) -> Delta:
        """What was said since the last time."""
        delta = Delta(content=self._content, calls=tuple(self._calls))
        self._content, self._calls = "", []
        return delta


class CallScanner:
    """The base of the parsers.

    Args:
        tools: Those that may be called.
        starts: Markers that begin a call, and the states that read on behind them.
    """

    _ends: tuple[str, ...] = ()
    """What stands in place of arguments, where a call has none."""

    def __init__(self, tools: Sequence[ToolSpec], starts: Mapping[str, State]) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._starts = starts
        self._finder = MarkerFinder(starts)
        self._said = Said()
        self._text = ""
        self._at = 0
        """What is before this place in the text has been read."""
        self._unsaid = 0
        """While nothing is said of a call: the length of its marker, with which the text begins. Otherwise 0."""
        self._ended = False
        self._state: State = self._read_content
        self._object = CallObject()
        self._value = JsonValue()

    def feed(self, text: str) -> Delta:
        """What the next piece of text adds."""
        self._text += text
        while self._state():
            pass
        return self._said.take()

    def finish(self) -> Delta:
        """What was kept back, when the text has ended."""
        self._ended = True
        while self._state():
            pass
        self._said.end()
        return self._said.take()

    # States that all formats need.

    def _read_content(self) -> bool:
        found = self._finder.find(self._text)
        if found:
            place, marker = found
            self._said.content(self._text[:place])
            self._text = self._text[place:]
            return self._begin(len(marker), self._starts[marker])
        end = len(self._text) - (0 if self._ended else self._finder.partial(self._text))
        self._said.content(self._text[:end])
        self._text = self._text[end:]
        return False

    def _read_object(self) -> bool:
        """A call as one JSON object; `_behind_object` is the state after it."""
        call = self._object
        self._at = call.scan(self._text, self._at)
        # The name comes first: where the object was cut must not tell whether a defect behind the name hides it.
        if self._unsaid and call.name is not None:
            if call.name not in self._tools:
                return self._fail()
            self._say(call.name)
        if not self._unsaid:
            self._said.arguments(call.take())
            self._drop_read()
        if call.broken or (call.done and self._unsaid):
            return self._fail()
        return self._go(self._behind_object) if call.done else self._wait()

    def _begin_object(self, *, only_known_keys: bool = False) -> bool:
        self._object = CallObject(only_known_keys=only_known_keys)
        return self._go(self._read_object)

    def _behind_object(self) -> bool:
        return self._go(self._read_content)

    def _read_arguments(self) -> bool:
        """Arguments as a JSON object of their own, behind the name; `_behind_arguments` is the state after it."""
        self._at = self._value.scan(self._text, self._at)
        self._said.arguments(self._text[: self._at])
        self._drop_read()
        if self._value.broken:
            return self._fail()
        return self._go(self._behind_arguments) if self._value.done else self._wait()

    def _begin_arguments(self) -> bool:
        """The object is next, behind white space, or the end of the call; anything else is not of the call."""
        marker = self._next("{", *self._ends)
        if marker is None:
            return self._wait()
        self._at -= len(marker)
        if marker in self._ends:
            self._said.arguments("{}")
            return self._go(self._behind_arguments)
        self._drop_read()
        self._value = JsonValue()
        return self._go(self._read_arguments) if marker else self._fail()

    def _behind_arguments(self) -> bool:
        return self._go(self._read_content)

    # What states are made of.

    def _begin(self, length: int, state: State) -> bool:
        """The text begins with a marker of this length, behind which there may be a call."""
        self._unsaid = self._at = length
        return self._go(state)

    def _go(self, state: State) -> bool:
        self._state = state
        if state == self._read_content:
            self._drop_read()
        return True

    def _wait(self) -> bool:
        """More text is needed. At the end of the text a call that was said stays, and one that was not is content."""
        if not self._ended:
            return False
        if self._unsaid:
            return self._fail()
        self._at = len(self._text)
        return self._go(self._read_content)

    def _fail(self) -> bool:
        """No call, or not on from here: the rest is content."""
        if self._unsaid:
            self._said.content(self._text[: self._unsaid])
            self._at, self._unsaid = self._unsaid, 0
        return self._go(self._read_content)

    def _say(self, name: str) -> None:
        self._said.name(name)
        self._unsaid = 0

    def _drop_read(self) -> None:
        self._text = self._text[self._at :]
        self._at = 0

    def _next(self, *markers: str) -> str | None:
        """Which marker is next, behind white space, and go past it; empty: none; None: that cannot be told yet."""
        space = _SPACE.match(self._text, self._at)
        at = space.end() if space else self._at
        for marker in markers:
            if self._text.startswith(marker, at):
                self._at = at + len(marker)
                return marker
        rest = self._text[at:]
        return None if any(marker.startswith(rest) for marker in markers) else ""

    def _next_name(self, *ends: str, prefix: str = "", is_numbered: bool = False) -> tuple[str, str] | None:
        """A tool's name and what ends it, and go past both; both empty: there is none; None: that cannot be told yet.

        Args:
            ends: What may stand behind the name, and behind white space after it.
            prefix: May stand before the name.
            is_numbered: A colon and digits may stand behind the name.
        """
        rest = self._text[self._at :].lstrip(WHITE_SPACE)
        skipped = len(self._text) - len(rest)
        unprefixed = rest.removeprefix(prefix)
        skipped += len(rest) - len(unprefixed)
        undecided = prefix.startswith(rest)
        for name in self._tools:
            undecided |= name.startswith(unprefixed)
            if not unprefixed.startswith(name):
                continue
            behind = (_NUMBER if is_numbered else _SPACE).match(unprefixed, len(name))
            end_at = behind.end() if behind else len(name)
            for end in ends:
                if unprefixed.startswith(end, end_at):
                    self._at = skipped + end_at + len(end)
                    return name, end
            undecided |= any(end.startswith(unprefixed[end_at:]) for end in ends)
        return None if undecided else ("", "")
