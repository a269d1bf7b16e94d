"""Random JSON schemas over every keyword that is claimed, from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from bough.grammar.formats import FORMATS

PATTERNS = (
    "^[a-z]{2,5}$",
    r"^(\w+)@\d{1,3}$",
    "ab|c",
    r'^["\\]{1,2}[^a-z]$',
    "^(é|😀|[ж-щ]){1,3}$",
    r"^\S\s?\D{0,2}x+?",
    "(a+)+b$",
)
NAMES = ("a", "ab", "name", "größe", 'qu"ote', "back\\slash", "новое", "x y", "😀", "$ref", "line\nbreak")
SCALARS: tuple[Any, ...] = ("red", 'say "é"', "", 0, 1.0, -2.5, True, False, None, [1, "a"], {"k": [None]})


class SchemaMaker:
    """Makes schemas; equal seeds make equal ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._definitions: dict[str, Any] = {}

    def document(self) -> dict[str, Any]:
        """A schema with what it refers to."""
        self._definitions = {}
        schema: dict[str, Any] = dict(self._schema(3))
        if self._definitions:
            schema["$defs"] = self._definitions
        return self._annotated(schema)

    def _annotated(self, schema: dict[str, Any]) -> dict[str, Any]:
        extra = {"title": "T", "description": "d", "default": 1, "examples": [1], "$comment": "c", "x-order": 1}
        names = self._random.sample(sorted(extra), self._random.choice((0, 0, 2)))
        return schema | {name: extra[name] for name in names}

    def _schema(self, depth: int) -> dict[str, Any]:
        leaves: list[Callable[[int], dict[str, Any]]] = [
            self._string,
            self._integer,
            self._number,
            self._values,
            self._several_types,
        ]
        inner: list[Callable[[int], dict[str, Any]]] = [
            self._object,
            self._object,
            self._map,
            self._array,
            self._tuple,
            self._any_of,
            self._one_of,
        ]
        inner += [self._all_of, self._reference, self._list, self._with_siblings]
        return self._random.choice(leaves if depth == 0 else leaves + inner * 2)(depth - 1)

    def _maybe(self, **keywords: Any) -> dict[str, Any]:
        return {key: value for key, value in keywords.items() if self._random.random() < 0.5}

    def _range(self, most: int) -> tuple[int, int]:
        low = self._random.randint(0, most)
        return low, low + self._random.randint(0, most)

    def _string(self, depth: int) -> dict[str, Any]:
        low, high = self._range(self._random.choice((3, 20, 90)))
        return {"type": "string"} | self._random.choice(
            (
                {"maxLength": high},
                {"minLength": low, "maxLength": high},
                {"pattern": self._random.choice(PATTERNS)},
                {"format": self._random.choice(sorted(FORMATS))},
                # Texts of all formats are at least so short, and none is shorter.
                {"format": self._random.choice(sorted(FORMATS)), "minLength": 1, "maxLength": 40 + high * high},
                {"minLength": low},
                {},
            )
        )

    def _integer(self, depth: int) -> dict[str, Any]:
        low, high = sorted(self._random.sample(range(-(10**5), 10**5), 2))
        if self._random.random() < 0.3:
            step = self._random.choice((2, 3, 7, 100))
            both = {"minimum": low, "maximum": min(high, low + 300 * step)}
            return {"type": "integer", "multipleOf": step} | self._random.choice((both, {}))
        return {"type": "integer"} | self._maybe(minimum=low, exclusiveMaximum=high + 2)

    def _number(self, depth: int) -> dict[str, Any]:
        low, high = sorted(round(self._random.uniform(-50, 50), self._random.randint(0, 3)) for _ in range(2))
        bounds = self._random.choice(
            (
                {"minimum": low, "maximum": high},
                {"exclusiveMinimum": low, "exclusiveMaximum": high + 0.5},
                {"minimum": low},
                {"exclusiveMaximum": high},
                {"minimum": low, "exclusiveMaximum": 10**6},
                {},
            )
        )
        return {"type": "number"} | bounds

    def _values(self, depth: int) -> dict[str, Any]:
        values = self._random.sample(SCALARS, self._random.randint(1, 4))
        return self._random.choice(({"enum": values}, {"const": values[0]}, {"enum": values, "type": _types(values)}))

    def _several_types(self, depth: int) -> dict[str, Any]:
        types = self._random.sample(("string", "integer", "null", "boolean", "array"), 2)
        return {"type": types, "maxLength": 5, "minimum": 3, "maxItems": 2, "items": {"type": "null"}}

    def _object(self, depth: int) -> dict[str, Any]:
        names = self._random.sample(NAMES, self._random.randint(1, 5))
        required = [name for name in names if self._random.random() < 0.6]
        schema: dict[str, Any] = {"properties": {name: self._schema(max(depth, 0)) for name in names}}
        schema |= self._random.choice(({"type": "object"}, {"type": "object"}, {}))
        schema |= self._random.choice(({"required": required}, {}))
        schema |= self._random.choice(
            (
                {"additionalProperties": False},
                {"additionalProperties": self._schema(0), "maxProperties": len(names) + 1},
                {"maxProperties": len(names), "minProperties": 1},
                {},
            )
        )
        return schema

    def _map(self, depth: int) -> dict[str, Any]:
        value = self._schema(max(depth, 0))
        pattern = self._random.choice(PATTERNS)
        counts = {"maxProperties": self._random.randint(1, 3)} | self._maybe(minProperties=1)
        return {"type": "object"} | self._random.choice(
            (
                {"additionalProperties": value, **counts},
                {"patternProperties": {pattern: value}, "additionalProperties": False, **counts},
                {"propertyNames": {"maxLength": 4}, "additionalProperties": value, **counts},
                {"propertyNames": {"enum": ["k", "l"]}, "additionalProperties": value, **counts},
                {"required": ["r"], "additionalProperties": value, "maxProperties": 2},
            )
        )

    def _array(self, depth: int) -> dict[str, Any]:
        low, high = self._range(3)
        return {"type": "array", "items": self._schema(max(depth, 0)), "maxItems": high} | self._maybe(
            minItems=low, uniqueItems=False
        )

    def _tuple(self, depth: int) -> dict[str, Any]:
        prefix = [self._schema(max(depth, 0)) for _ in range(self._random.randint(1, 3))]
        low = self._random.randint(0, 3)
        rest = self._random.choice(({"items": False}, {"items": self._schema(0), "maxItems": len(prefix) + 2}, {}))
        return {"type": "array", "prefixItems": prefix} | self._maybe(minItems=min(low, len(prefix))) | rest

    def _any_of(self, depth: int) -> dict[str, Any]:
        return {"anyOf": [self._schema(max(depth, 0)) for _ in range(self._random.randint(1, 3))]}

    def _one_of(self, depth: int) -> dict[str, Any]:
        tagged = [
            {
                "type": "object",
                "properties": {"kind": {"const": kind}, "v": self._schema(max(depth, 0))},
                "required": ["kind", "v"],
            }
            for kind in ("a", "b")
        ]
        return {
            "oneOf": self._random.choice((tagged, [tagged[0], {"type": "integer", "minimum": 0}, {"type": "null"}]))
        }

    def _all_of(self, depth: int) -> dict[str, Any]:
        parts = [
            {"properties": {"a": {"type": "integer", "minimum": 5}}, "required": ["a"]},
            {"properties": {"a": {"maximum": 70}, "b": self._schema(max(depth, 0))}},
        ]
        return {"type": "object", "allOf": parts} | self._maybe(required=["b"])

    def _reference(self, depth: int) -> dict[str, Any]:
        name = self._random.choice(("D1", "D/2", "D%3"))
        if name not in self._definitions:
            self._definitions[name] = {"type": "null"}
            self._definitions[name] = self._schema(0)
        return {"$ref": "#/$defs/" + name.replace("/", "~1").replace("%", "%25")}

    def _list(self, depth: int) -> dict[str, Any]:
        self._definitions["List"] = {
            "anyOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "properties": {
                        "head": {"type": "integer", "minimum": 0, "maximum": 9},
                        "tail": {"$ref": "#/$defs/List"},
                    },
                    "required": ["head", "tail"],
                },
            ]
        }
        return {"$ref": "#/$defs/List"}

    def _with_siblings(self, depth: int) -> dict[str, Any]:
        self._definitions["Limit"] = {"type": ["integer", "string"], "maximum": 100, "maxLength": 9}
        return self._random.choice(
            (
                {"$ref": "#/$defs/Limit", "minimum": 7, "minLength": 2},
                {"anyOf": [{"minLength": 3}, {"minimum": 5}], "$ref": "#/$defs/Limit"},
                {"allOf": [{"$ref": "#/$defs/Limit"}], "type": "string"},
            )
        )


def _types(values: list[Any]) -> list[str]:
    names = {str: "string", bool: "boolean", int: "integer", float: "number", list: "array", dict: "object"}
    return sorted({"null" if value is None else names[type(value)] for value in values})
