"""Arguments that a model writes as pairs of a key and a text: their types are those of the tool's schema."""

from __future__ import annotations

from typing import Any

from bough.gateway.parsers.json_text import decode, encode

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
        return _types_of(schema, self._schema)


def escape(text: str) -> str:
    """A part of a string as it stands between quotes."""
    return encode(text)[1:-1]


def _types_of(schema: Any, root: dict[str, Any]) -> set[str]:
    """Types that a value may have; none where the schema does not say. Every reference is followed once."""
    types: set[str] = set()
    references: set[str] = set()
    open_schemas = [schema]
    while open_schemas:
        current = open_schemas.pop()
        if not isinstance(current, dict):
            continue
        types |= _own_types(current)
        reference = current.get("$ref")
        if isinstance(reference, str) and reference not in references:
            references.add(reference)
            open_schemas.append(_referred(reference, root))
        for word in ("anyOf", "oneOf", "allOf"):
            alternatives = current.get(word)
            open_schemas += alternatives if isinstance(alternatives, list) else ()
    return types


def _own_types(schema: dict[str, Any]) -> set[str]:
    kind = schema.get("type")
    if isinstance(kind, str):
        return {kind}
    if isinstance(kind, list):
        return {item for item in kind if isinstance(item, str)}
    if isinstance(schema.get("enum"), list):
        return set(map(_type_of, schema["enum"]))
    return {_type_of(schema["const"])} if "const" in schema else set()


def _referred(reference: str, root: dict[str, Any]) -> Any:
    """The schema that a reference within the document leads to."""
    target: Any = root
    for part in reference.removeprefix("#").split("/")[1:]:
        target = target.get(part) if isinstance(target, dict) else None
    return target


def _type_of(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    names = {str: "string", int: "integer", float: "number", dict: "object", list: "array"}
    return names[type(value)]
