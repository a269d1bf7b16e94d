"""Stop strings in text that arrives in pieces.

The result does not depend on how the text is cut: the stop string that is *complete* first wins (of two that end at the
same character, the longer one), as if the text had come character by character.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StopMatch:
    """A stop string that was found, and how many characters had come after it."""

    stop: str
    chars_behind: int


class StopFinder:
    """Lets text pass that cannot become part of a stop string any more, and holds the rest back.

    Args:
        stops: The stop strings, none empty.
        include_stop: Let the stop string itself pass.
    """

    __slots__ = ("_first", "_held", "_include_stop", "_stops")

    def __init__(self, stops: Sequence[str], *, include_stop: bool = False) -> None:
        if not stops or not all(stops):
            raise ValueError("stop strings must not be empty")
        self._stops = tuple(dict.fromkeys(stops))
        self._include_stop = include_stop
        self._held = ""
        self._first = re.compile("[" + "".join({re.escape(stop[0]) for stop in self._stops}) + "]")

    def push(self, text: str) -> tuple[str, StopMatch | None]:
        """Add text; returns what may pass, and the stop string if one is complete: nothing may be added after that."""
        if not self._held and self._first.search(text) is None:
            return text, None
        text = self._held + text
        found = self._earliest(text)
        if found is not None:
            start, end = found
            self._held = ""
            return text[: end if self._include_stop else start], StopMatch(text[start:end], len(text) - end)
        split = len(text) - self._num_held(text)
        self._held = text[split:]
        return text[:split], None

    def flush(self) -> str:
        """No text will follow; returns what was held back."""
        held, self._held = self._held, ""
        return held

    def _earliest(self, text: str) -> tuple[int, int] | None:
        found = [(start + len(stop), start) for stop in self._stops if (start := text.find(stop)) >= 0]
        if not found:
            return None
        end, start = min(found)
        return start, end

    def _num_held(self, text: str) -> int:
        """Length of the longest end of `text` that some stop string begins with."""
        longest = 0
        for stop in self._stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while at >= 0 and len(text) - at > longest:
                if stop.startswith(text[at:]):
                    longest = len(text) - at
                    break
                at = text.find(stop[0], at + 1)
        return longest
