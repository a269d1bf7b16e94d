"""Regular expressions as grammars: of JSON strings for a schema's patterns, or of the output as it is.

Read is what ECMA 262 and Python's `re` understand alike: characters, classes, groups, alternatives, counts, and anchors
at the ends of the whole. A schema's pattern without anchors may begin and end anywhere, as the standard has it.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from bough.grammar.ebnf import (
    EMPTY,
    Expr,
    OneOf,
    Ranges,
    Repeat,
    alt,
    complement,
    intersect,
    lengths,
    normalize,
    seq,
)
from bough.grammar.json_text import QUOTE, SURROGATES, char, string_chars

MAX_COUNT = 10_000
"""Of a counted repetition in a pattern."""
MAX_GROUP_DEPTH = 64

_ASCII: Ranges = ((0, 0x7F),)
_ALL: Ranges = complement(())
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD = normalize([(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)])
_SPACE = normalize([(0x09, 0x0D), (0x20, 0x20)])
_ANY_SPACE = normalize(
    [
        *_SPACE,
        (0x1C, 0x1F),
        *((code, code) for code in (0x85, 0xA0, 0x1680, 0x202F, 0x205F, 0x3000, 0xFEFF)),
        (0x2000, 0x200A),
        (0x2028, 0x2029),
    ]
)
"""What either dialect calls white space."""
_SHORTHANDS = {
    "d": _DIGITS,
    "w": _WORD,
    "s": _SPACE,
    "D": intersect(_ASCII, complement(_DIGITS)),
    "W": intersect(_ASCII, complement(_WORD)),
    "S": complement(_ANY_SPACE),
}
"""What is of each set in both dialects. They do not agree on digits and letters beyond ASCII, which no set takes."""
_AT_MOST = {name: complement(_SHORTHANDS[name.swapcase()]) for name in _SHORTHANDS}
"""What is of each set in one dialect at least: a class that is negated must do without all of it."""
_CONTROLS = {"n": 0x0A, "r": 0x0D, "t": 0x09, "f": 0x0C, "v": 0x0B}
_DOT = complement(normalize([(0x0A, 0x0A), (0x0D, 0x0D), (0x85, 0x85), (0x2028, 0x2029)]))
_GROUP_NAME = re.compile(r"P?<[A-Za-z_][A-Za-z0-9_]*>")
_SYNTAX = "^$\\.*+?()[]{}|/-"


class PatternError(ValueError):
    """The pattern is wrong or has something that is not supported."""


def pattern_string(pattern: str) -> Expr:
    """A JSON string that has a match of a pattern; without references.

    Raises:
        PatternError: It is no pattern that is read here.
    """
    return seq(QUOTE, _Parser(pattern, string_chars, Repeat(char())).parse(), QUOTE)


def pattern_lengths(pattern: str) -> tuple[int, int | None]:
    """Bounds of the characters of a text that has a match: at least, and at most; None where there is no most.

    Raises:
        PatternError: It is no pattern that is read here.
    """
    return lengths(_Parser(pattern, OneOf, Repeat(OneOf(_ALL))).parse())


def pattern_text(pattern: str) -> Expr:
    """A text that a pattern matches as a whole; without references.

    Raises:
        PatternError: It is no pattern that is read here.
    """
    return _Parser(pattern, _text_chars, EMPTY).parse()


def _text_chars(ranges: Ranges) -> Expr:
    return OneOf(intersect(ranges, complement(SURROGATES)))


class _Parser:
    """Reads one pattern.

    Args:
        pattern: The expression.
        chars: Makes what one character of a set is written as.
        around: What may stand where an anchor is missing.
    """

    def __init__(self, pattern: str, chars: Callable[[Ranges], Expr], around: Expr) -> None:
        self._pattern = pattern
        self._chars = chars
        self._around = around
        self._at = 0
        self._depth = 0

    def parse(self) -> Expr:
        options = [self._anchored()]
        while self._take("|"):
            options.append(self._anchored())
        if self._at < len(self._pattern):
            raise self._error(f"{self._pattern[self._at]!r} has no counterpart")
        return alt(*options)

    def _anchored(self) -> Expr:
        begins = self._take("^")
        body = self._sequence(top=True)
        ends = self._take("$")
        if ends and self._peek() not in ("", "|"):
            raise self._error("'$' is supported only at the end")
        return seq(*([] if begins else [self._around]), body, *([] if ends else [self._around]))

    def _sequence(self, *, top: bool = False) -> Expr:
        parts: list[Expr] = []
        while (char := self._peek()) not in ("", "|", ")") and not (char == "$" and top):
            parts.append(self._counted(self._atom()))
        return seq(*parts) if parts else EMPTY

    def _atom(self) -> Expr:
        char = self._next()
        if char == "(":
            return self._group()
        if char == "[":
            return self._chars(self._class())
        if char == ".":
            return self._chars(_DOT)
        if char == "\\":
            return self._chars(self._escape(in_class=False))
        if char in "^$":
            raise self._error(f"{char!r} is supported only at the ends of the pattern")
        if char in "*+?{":
            raise self._error(f"{char!r} stands where a character is expected; write it as \\{char}")
        return self._chars(((ord(char), ord(char)),))

    def _group(self) -> Expr:
        if self._take("?") and not self._take(":"):
            self._skip_name()
        self._depth += 1
        if self._depth > MAX_GROUP_DEPTH:
            raise self._error(f"groups are nested deeper than {MAX_GROUP_DEPTH}")
        options = [self._sequence()]
        while self._take("|"):
            options.append(self._sequence())
        if not self._take(")"):
            raise self._error("a group is not closed")
        self._depth -= 1
        return alt(*options)

    def _skip_name(self) -> None:
        named = _GROUP_NAME.match(self._pattern, self._at)
        if named is None:
            raise self._error("groups other than (...), (?:...) and (?<name>...) are not supported")
        self._at = named.end()

    def _counted(self, atom: Expr) -> Expr:
        char = self._peek()
        if char not in ("*", "+", "?", "{") or not char:
            return atom
        self._at += 1
        least, most = self._count() if char == "{" else {"*": (0, None), "+": (1, None), "?": (0, 1)}[char]
        self._take("?")  # a lazy count finds the same strings
        if self._peek() in ("*", "+", "?", "{") and self._peek():
            raise self._error("a count follows a count")
        return Repeat(atom, least, most)

    def _count(self) -> tuple[int, int | None]:
        end = self._pattern.find("}", self._at)
        low, comma, high = self._pattern[self._at : max(end, 0)].partition(",")
        if end < 0 or not _is_number(low) or (high and not _is_number(high)):
            raise self._error("'{' begins a count as {2}, {2,} or {2,5}; write the character as \\{")
        self._at = end + 1
        least = int(low)
        most = (int(high) if high else None) if comma else least
        if max(least, most or 0) > MAX_COUNT:
            raise self._error(f"a count is above {MAX_COUNT}")
        if most is not None and least > most:
            raise self._error(f"the count {{{low},{high}}} is empty")
        return least, most

    def _class(self) -> Ranges:
        negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        sets: set[str] = set()
        if self._peek() == "]":
            raise self._error("a class is empty; write ']' as \\]")
        while not self._take("]"):
            low = self._class_item()
            is_range = self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] not in ("]", "")
            if not is_range:
                sets |= {low} if isinstance(low, str) else set()
                ranges += [(low, low)] if isinstance(low, int) else []
                continue
            self._at += 1
            high = self._class_item()
            if isinstance(low, str) or isinstance(high, str) or low > high:
                raise self._error("a range of a class is not one of two characters in order")
            ranges.append((low, high))
        if any(name.swapcase() in sets for name in sets):
            return () if negated else _ALL  # as in [\\s\\S]
        of_sets = [found for name in sets for found in (_AT_MOST if negated else _SHORTHANDS)[name]]
        found = normalize([*ranges, *of_sets])
        return complement(found) if negated else found

    def _class_item(self) -> int | str:
        """A code point, or the letter of a set such as the digits."""
        char = self._next()
        if char == "[":
            raise self._error("'[' in a class must be written as \\[")
        if char != "\\":
            return ord(char)
        if (name := self._peek()) in _SHORTHANDS:
            self._at += 1
            return name
        return self._escape(in_class=True)[0][0]

    def _escape(self, *, in_class: bool) -> Ranges:
        char = self._next()
        if char in _SHORTHANDS:
            return _SHORTHANDS[char]
        if char in _CONTROLS:
            code = _CONTROLS[char]
        elif char in "xu":
            code = self._hex(2 if char == "x" else 4)
        elif char in _SYNTAX or (not char.isalnum() and char.isascii() and char != "_"):
            code = ord(char)
        else:
            raise self._error(f"\\{char} is not supported{' in a class' if in_class else ''}")
        return ((code, code),)

    def _hex(self, length: int) -> int:
        digits = self._pattern[self._at : self._at + length]
        if len(digits) < length or any(c not in "0123456789abcdefABCDEF" for c in digits):
            raise self._error(f"an escape lacks its {length} hexadecimal digits")
        self._at += length
        return int(digits, 16)

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _next(self) -> str:
        if self._at >= len(self._pattern):
            raise self._error("it ends too early")
        self._at += 1
        return self._pattern[self._at - 1]

    def _take(self, char: str) -> bool:
        if self._peek() != char:
            return False
        self._at += 1
        return True

    def _error(self, text: str) -> PatternError:
        return PatternError(f"at character {self._at}: {text}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 9
