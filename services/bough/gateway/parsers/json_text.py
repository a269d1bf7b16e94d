"""JSON that is followed while it comes, without being taken apart: where a value ends, and a call's name in it."""

from __future__ import annotations

import json
import re
from typing import Any

_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)

_SPACE = re.compile(r"[ \t\r\n]+")
_SCALAR = re.compile(r"[A-Za-z0-9_.+-]+")
_STRING_PART = re.compile(r'[^"\\]+')

_ARGUMENT_KEYS = frozenset({"arguments", "parameters"})
_KNOWN_KEYS = _ARGUMENT_KEYS | {"name", "type", "id"}


class JsonValue:
    """Follows one value to its end.

    Nesting is strict; what a number or a literal may look like is not, since the client gets the model's own words.
    """

    def __init__(self) -> None:
        self.done = False
        self.broken = False
        self._closers: list[str] = []
        self._expected = "value"
        """Or "key", "colon", "comma"."""
        self._in_string = False
        self._is_escaped = False
        self._in_scalar = False

    def scan(self, text: str, at: int) -> int:
        """Read on from a place in the text; returns where the value ends, where it breaks, or the end of the text."""
        while at < len(text) and not self.done and not self.broken:
            if self._in_string:
                at = self._scan_string(text, at)
            elif self._in_scalar:
                at = self._scan_scalar(text, at)
            elif space := _SPACE.match(text, at):
                at = space.end()
            elif self._take(text[at]):
                at += 1
            else:
                self.broken = True
        return at

    def _scan_string(self, text: str, at: int) -> int:
        if self._is_escaped:
            self._is_escaped = False
            return at + 1
        if part := _STRING_PART.match(text, at):
            return part.end()
        if text[at] == "\\":
            self._is_escaped = True
        else:
            self._in_string = False
            self._end_item()
        return at + 1

    def _scan_scalar(self, text: str, at: int) -> int:
        if part := _SCALAR.match(text, at):
            return part.end()
        self._in_scalar = False
        self._end_item()
        return at

    def _take(self, char: str) -> bool:
        """Whether the character fits here, outside of strings and scalars."""
        inside = self._closers[-1] if self._closers else ""
        if char == '"' and self._expected in ("value", "key"):
            self._in_string = True
        elif char in "{[" and self._expected == "value":
            self._closers.append("}" if char == "{" else "]")
            self._expected = "key" if char == "{" else "value"
        elif char == inside and self._expected in ("comma", "key" if char == "}" else "value"):
            self._closers.pop()
            self._expected = "value"
            self._end_item()
        elif char == ":" and self._expected == "colon":
            self._expected = "value"
        elif char == "," and self._expected == "comma":
            self._expected = "key" if inside == "}" else "value"
        elif _SCALAR.match(char) and self._expected == "value":
            self._in_scalar = True
        else:
            return False
        return True

    def _end_item(self) -> None:
        """A key, or a value within another one or the whole of it."""
        if self._expected == "key":
            self._expected = "colon"
        elif self._closers:
            self._expected = "comma"
        else:
            self.done = True


class CallObject:
    """Follows a call that is written as one JSON object with a name and arguments, in any order.

    Args:
        only_known_keys: Another key before the name breaks it: such an object is likely an answer in JSON.
    """

    def __init__(self, *, only_known_keys: bool = False) -> None:
        self.name: str | None = None
        self.done = False
        self.broken = False
        self._only_known_keys = only_known_keys
        self._expected = "{"
        """Or "key", ":", "value", ","."""
        self._value: JsonValue | None = None
        self._parts: list[str] = []
        """Of a key, or of a value that is not given on as it comes."""
        self._key = ""
        self._has_arguments = False
        self._is_arguments = False
        """The value that is followed is the call's arguments."""
        self._streams = False
        """They are given on as they come."""
        self._arguments: list[str] = []

    def scan(self, text: str, at: int) -> int:
        """Read on from a place in the text; returns where the object ends, where it breaks, or the end of the text."""
        while at < len(text) and not self.done and not self.broken:
            if self._value:
                at = self._follow(self._value, text, at)
            elif space := _SPACE.match(text, at):
                at = space.end()
            else:
                at += self._take(text[at])
        return at

    def take(self) -> str:
        """The arguments that came since the last time."""
        taken = "".join(self._arguments)
        self._arguments.clear()
        return taken

    def _take(self, char: str) -> int:
        """The length of what was read: a key or a value begins at the character, and is followed from there."""
        if (char == '"' and self._expected == "key") or (char not in ",:}]" and self._expected == "value"):
            self._begin_value(char)
            return 0
        if char == "}" and self._expected in ("key", ","):
            self.done = True
            if not self._has_arguments:
                self._arguments.append("{}")
        elif char == self._expected:
            self._expected = {"{": "key", ":": "value", ",": "key"}[char]
        else:
            self.broken = True
            return 0
        return 1

    def _begin_value(self, char: str) -> None:
        self._value = JsonValue()
        self._parts = []
        is_value = self._expected == "value"
        self._is_arguments = is_value and self._key in _ARGUMENT_KEYS and not self._has_arguments
        self._has_arguments |= self._is_arguments
        self._streams = self._is_arguments and char in "{["

    def _follow(self, value: JsonValue, text: str, at: int) -> int:
        end = value.scan(text, at)
        (self._arguments if self._streams else self._parts).append(text[at:end])
        if value.broken:
            self.broken = True
        elif value.done:
            self._value = None
            self._end_value("".join(self._parts))
        return end

    def _end_value(self, text: str) -> None:
        if self._expected == "key":
            self._key = decode_string(text) or ""
            self._expected = ":"
            self.broken = self._only_known_keys and self.name is None and self._key not in _KNOWN_KEYS
            return
        self._expected = ","
        if self._is_arguments and not self._streams:
            self._arguments.append(_unwrapped(text))
        elif self._key == "name" and self.name is None:
            self.name = decode_string(text)
            self.broken = self.name is None


def decode_string(text: str) -> str | None:
    """The string that a JSON text stands for; None if it stands for none."""
    decoded = decode(text)
    return decoded if isinstance(decoded, str) else None


def decode(text: str) -> Any:
    """What a JSON text stands for; None for a text that is no JSON, as for null."""
    try:
        return json.loads(text, strict=False, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return None


def encode(value: Any) -> str:
    """A value as JSON text that can be written as UTF-8.

    Raises:
        ValueError: Infinity or not a number, for which JSON has no words.
        TypeError: A value that JSON does not have.
    """
    text = _ENCODER.encode(value)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(value)
    return text


def _unwrapped(text: str) -> str:
    """Arguments that are no object: some models write the object as a string, or null for none."""
    if text == "null":
        return "{}"
    inner = decode_string(text)
    if (
        inner is not None
        and isinstance(decode(inner), dict)
        and not any("\ud800" <= char <= "\udfff" for char in inner)
    ):
        return inner
    return text


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)
