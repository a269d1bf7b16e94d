"""Where in a program something was written, for errors that show up elsewhere and later."""

from __future__ import annotations

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGE = "bough.lang"


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a program."""

    file: str
    number: int
    function: str

    def note(self) -> str:
        """The line in words, with its text."""
        text = linecache.getline(self.file, self.number).strip()
        return f"in {self.function}, {Path(self.file).name}:{self.number}" + (f": {text}" if text else "")


def calling_line() -> Line:
    """The line nearest to the caller that is not of the language itself."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_PACKAGE):
        frame = frame.f_back
    return Line(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)


def add_line(error: BaseException, line: Line) -> None:
    """Have an error tell a line, once."""
    note = line.note()
    if note not in getattr(error, "__notes__", ()):
        error.add_note(note)
