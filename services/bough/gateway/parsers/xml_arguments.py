"""Arguments that a model writes as pairs of a key and a text: their types are those of the tool's schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bough.gateway.parsers.json_text import decode, encode

_MAX_DEPTH = 8
"""References and alternatives that are followed; a schema may refer to itself."""

_UNLIKE_STRINGS = {"null", "object", "array"}
_PYTHON_WORDS = {"True": "true", "False": "false", "None": "null"}


class XmlArguments:
    """Writes the JSON object of a call's arguments, pair by pair.

    Args:
        schema: Of the arguments.
    """

    def __init__(self, schema: dict[str, Any] | bool) -> None:
        self._schema = schema if isinstance(schema, dict) else {}
        self._opening = "{"

    def key(self, key: str) -> str:
        """The text up to a value."""
        opening, self._opening = self._opening, ", "
        return f"{opening}{encode(key)}: "

    def end(self) -> str:
        """The text that closes the object."""
        return "}" if self._opening != "{" else "{}"

    def is_text(self, key: str) -> bool:
        """Whether a value can only be a string, so that it can be given on while it comes."""
        return self._types(key) == {"string"}

    def value(self, key: str, text: str) -> str:
        """A value as JSON: as the model wrote it where that is JSON and the schema allows it, else a string."""
        types = self._types(key)
        written = text.strip()
        written = _PYTHON_WORDS.get(written, written)
        decoded = decode(written)
        kind = _type_of(decoded) if decoded is not None or written == "null" else "string"
        # Where strings are allowed too, "12" is likelier one than a number, but "[1, 2]" an array.
        is_json = kind in types & _UNLIKE_STRINGS if "string" in types else kind != "string"
        return written if is_json else encode(text)

    def _types(self, key: str) -> set[str]:
        properties = self._schema.get("properties")
        schema = properties.get(key) if isinstance(properties, dict) else None
        if schema is None:
            schema = self._schema.get("additionalProperties")
        return set(_types_of(schema, self._schema, _MAX_DEPTH))


def escape(text: str) -> str:
    """A part of a string as it stands between quotes."""
    return encode(text)[1:-1]


def _types_of(schema: Any, root: dict[str, Any], depth: int) -> Iterator[str]:
    if not isinstance(schema, dict) or depth == 0:
        return
    kind = schema.get("type")
    if isinstance(kind, str):
        yield kind
    elif isinstance(kind, list):
        yield from (item for item in kind if isinstance(item, str))
    elif isinstance(schema.get("enum"), list):
        yield from map(_type_of, schema["enum"])
    elif "const" in schema:
        yield _type_of(schema["const"])
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/"):
        target: Any = root
        for part in reference[2:].split("/"):
            target = target.get(part) if isinstance(target, dict) else None
        yield from _types_of(target, root, depth - 1)
    for word in ("anyOf", "oneOf", "allOf"):
        for alternative in schema.get(word) or ():
            yield from _types_of(alternative, root, depth - 1)


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names[type(value)]
