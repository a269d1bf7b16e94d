"""JSON schemas written without what xgrammar's own converter passes over.

It makes the grammars of arguments in XML. It does not look at `allOf` of several parts, at what stands beside `$ref`,
`anyOf` and `oneOf`, and at required properties that are not listed: here they are joined and written out.
"""

from __future__ import annotations

import json
from typing import Any

from bough.grammar.schema_check import BY_TYPE, COMBINING, Path, Schema, SchemaError, check_schema
from bough.grammar.schema_merge import Flattener, type_of, written_types
from bough.grammar.schema_strings import plain_string

MAX_DEFINITIONS = 10_000


def plain_schema(schema: Any) -> Schema:
    """An equal schema that holds nothing but types with their keywords, enum, anyOf, $ref and $defs.

    Raises:
        SchemaError: Parts cannot be joined, or it becomes too large.
    """
    return _Writer(check_schema(schema)).write(schema)


class _Writer:
    def __init__(self, pointers: dict[str, Any]) -> None:
        self._flattener = Flattener(pointers)
        self._known: dict[str, str] = {}
        self._queue: list[tuple[str, Any, Path]] = []

    def write(self, schema: Any) -> Schema:
        """The whole document."""
        root = self._refer(schema, ())
        definitions: dict[str, Any] = {}
        while self._queue:
            name, inner, path = self._queue.pop()
            definitions[name] = self._body(inner, path)
        return {**root, "$defs": definitions} if isinstance(root, dict) else {}

    def _refer(self, schema: Any, path: Path) -> Any:
        """A reference to a definition, which `write` fills in; what says nothing stays as it is."""
        if isinstance(schema, bool) or not schema:
            return schema
        key = json.dumps(schema)
        if key not in self._known:
            if len(self._known) >= MAX_DEFINITIONS:
                raise SchemaError(path, f"makes more than {MAX_DEFINITIONS} definitions")
            self._known[key] = f"d{len(self._known)}"
            self._queue.append((self._known[key], schema, path))
        return {"$ref": f"#/$defs/{self._known[key]}"}

    def _body(self, schema: Schema, path: Path) -> Schema:
        own = [key for key in schema if key in COMBINING]
        has_others = any(key in ("type", "enum", "const") or any(key in k for k in BY_TYPE.values()) for key in schema)
        if own == ["$ref"] and not has_others:
            return _any_of([self._refer(self._flattener.target(schema["$ref"]), path)])
        if own in (["anyOf"], ["oneOf"]) and not has_others:
            return _any_of([self._refer(part, (*path, own[0], str(i))) for i, part in enumerate(schema[own[0]])])
        return _any_of([one for plain in self._flattener.flatten(schema, path) for one in self._typed(plain, path)])

    def _typed(self, plain: Schema, path: Path) -> list[Any]:
        """One schema for each type."""
        types = written_types(plain)
        if "enum" in plain:
            values = [value for value in plain["enum"] if type_of(value) in types]
            return [{"enum": values}] if values else []
        if "type" not in plain and not any(keywords & plain.keys() for keywords in BY_TYPE.values()):
            return [True]
        return [self._of_type(name, plain, path) for name in sorted(types)]

    def _of_type(self, name: str, plain: Schema, path: Path) -> Schema:
        keywords = BY_TYPE.get("number" if name == "integer" else name, frozenset())
        kept: Schema = {"type": name, **{key: value for key, value in plain.items() if key in keywords}}
        if name == "object":
            self._list_properties(kept, path)
        if name == "string":
            return plain_string(kept, path)
        for key in ("items", "additionalProperties", "propertyNames"):
            if key in kept:
                kept[key] = self._refer(kept[key], (*path, key))
        if "prefixItems" in kept:
            kept["prefixItems"] = [self._refer(item, (*path, "prefixItems")) for item in kept["prefixItems"]]
        if "patternProperties" in kept:
            kept["patternProperties"] = {
                pattern: self._refer(value, (*path, "patternProperties"))
                for pattern, value in kept["patternProperties"].items()
            }
        return kept

    def _list_properties(self, kept: Schema, path: Path) -> None:
        """Names that are required are listed too, and whether others may come is said."""
        listed = dict(kept.get("properties", {}))
        if "patternProperties" not in kept:
            kept.setdefault("additionalProperties", not listed)
        for name in kept.get("required", ()):
            listed.setdefault(name, kept.get("additionalProperties") or True)
        if listed:
            kept["properties"] = {
                name: self._refer(value, (*path, "properties", name))
                for name, value in listed.items()
                if value is not False
            }


def _any_of(options: list[Any]) -> Schema:
    kept = [option for option in options if option is not False]
    if any(option is True or option == {} for option in kept):
        return {}
    return kept[0] if len(kept) == 1 else {"anyOf": kept}
