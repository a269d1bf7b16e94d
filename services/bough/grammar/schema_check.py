"""Which keywords of JSON Schema are enforced, and the check that a schema has no others.

A keyword is either enforced for every output or refused by its name; none is passed over. `python -m
bough.grammar.schema_check` prints the lists.
"""

from __future__ import annotations

import json
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

from bough.grammar.formats import FORMATS

MAX_DEPTH = 64
"""Levels of schemas inside one another."""
MAX_NODES = 10_000
"""Schemas in a document, the inner ones counted."""
MAX_ENUM = 10_000
"""Values of one enum."""
MAX_COUNT = 100_000
"""The largest minLength, maxItems and the like."""

Schema = dict[str, Any]
Path = tuple[str, ...]

TYPES = ("null", "boolean", "integer", "number", "string", "array", "object")
ANNOTATIONS = frozenset(
    [
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
        "$defs",
        "definitions",
        "discriminator",
    ]
)
"""They say nothing about values; $defs is where $ref leads to, and a discriminator repeats what its branches say."""
BY_TYPE: dict[str, frozenset[str]] = {
    "string": frozenset(["minLength", "maxLength", "pattern", "format"]),
    "number": frozenset(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"]),
    "array": frozenset(["items", "prefixItems", "minItems", "maxItems", "uniqueItems"]),
    "object": frozenset(
        [
            "properties",
            "required",
            "additionalProperties",
            "patternProperties",
            "propertyNames",
            "minProperties",
            "maxProperties",
        ]
    ),
}
"""Keywords that say something about values of one type only."""
COMBINING = frozenset(["$ref", "allOf", "anyOf", "oneOf"])
CLAIMED = frozenset(["type", "enum", "const"]) | COMBINING | frozenset().union(*BY_TYPE.values())
REFUSED = frozenset(
    [
        "not",
        "if",
        "then",
        "else",
        "contains",
        "minContains",
        "maxContains",
        "dependentRequired",
        "dependentSchemas",
        "dependencies",
        "unevaluatedItems",
        "unevaluatedProperties",
        "additionalItems",
        "contentEncoding",
        "contentMediaType",
        "contentSchema",
        "$anchor",
        "$dynamicRef",
        "$dynamicAnchor",
        "$recursiveRef",
        "$recursiveAnchor",
        "$vocabulary",
        "id",
        "nullable",
    ]
)
"""Known words that are refused; any other is refused as unknown."""
CONDITIONS = (
    "format: only " + ", ".join(sorted(FORMATS)),
    "format, pattern: beside one another, minLength and maxLength, where together they take at most 1024 states",
    "uniqueItems: only false",
    "multipleOf: whole numbers and type integer; up to 100, or with both bounds and up to 512 multiples between",
    "minProperties: with additional properties, at most one more than are required",
    "patternProperties: one pattern, without properties, propertyNames or open additionalProperties beside it",
    "propertyNames: without properties or required beside it",
    "enum, const: beside type and one another only",
    "oneOf: branches of which no output fits two",
    "allOf, $ref and anyOf with siblings: where the parts can be joined into one schema",
    "items: one schema, not a list (prefixItems is for that)",
    "$ref: to a schema in the same document, not through $id",
)
"""What else is asked of claimed keywords."""

_DIALECTS = ("draft-06", "draft-07", "draft/2019-09", "draft/2020-12")
_MAPS_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions")
_LISTS_OF_SCHEMAS = ("prefixItems", "allOf", "anyOf", "oneOf")
_SCHEMAS = ("items", "additionalProperties", "propertyNames")
_COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
_LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")


class SchemaError(ValueError):
    """The schema is wrong or has something that is not enforced; the message begins with where."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(f"{'.'.join(path)}: {text}" if path else text)


def parse_json(text: str) -> Any:
    """A JSON text without NaN, infinities and half surrogates.

    Raises:
        SchemaError: It is not such a text, or is nested too deeply.
    """
    try:
        parsed = json.loads(text, parse_constant=_refuse_constant, parse_float=_parse_float)
        json.dumps(parsed, ensure_ascii=False).encode()
    except RecursionError:
        raise SchemaError((), f"is nested too deeply; at most {MAX_DEPTH} levels are accepted") from None
    except UnicodeEncodeError:
        raise SchemaError((), "has half of a surrogate pair in a string, which no output can have") from None
    except ValueError as error:
        raise SchemaError((), f"is not valid JSON: {error}") from None
    return parsed


def check_schema(schema: Any) -> dict[str, Any]:
    """Check every schema of a document by itself: its keywords, the form of their values, and that they can hold.

    Returns:
        The schemas by their JSON pointers, for `$ref`.

    Raises:
        SchemaError: Something is wrong, not enforced, or beyond a limit.
    """
    if not isinstance(schema, dict | bool):
        raise SchemaError((), f"must be an object or a boolean, got {json.dumps(schema)[:40]}")
    pointers: dict[str, Any] = {}
    num_ids = 0
    stack: list[tuple[Any, Path, str, int]] = [(schema, (), "#", 1)]
    while stack:
        node, path, pointer, depth = stack.pop()
        if len(pointers) >= MAX_NODES:
            raise SchemaError((), f"has more than {MAX_NODES} schemas in it")
        if depth > MAX_DEPTH:
            raise SchemaError(path[:8], f"is nested too deeply; at most {MAX_DEPTH} levels are accepted")
        pointers[pointer] = node
        if isinstance(node, bool):
            continue
        if not isinstance(node, dict):
            raise SchemaError(path, f"must be a schema, which is an object or a boolean, got {json.dumps(node)[:40]}")
        num_ids += "$id" in node and bool(path)
        _check_node(node, path)
        stack += [(child, (*path, *steps), _pointer(pointer, steps), depth + 1) for child, steps in _children(node)]
    _check_references(schema, pointers, has_inner_ids=num_ids > 0)
    return pointers


def _children(node: Schema) -> Iterator[tuple[Any, Path]]:
    for keyword in _MAPS_OF_SCHEMAS:
        for name, child in node.get(keyword, {}).items():
            yield child, (keyword, name)
    for keyword in _LISTS_OF_SCHEMAS:
        for index, child in enumerate(node.get(keyword, [])):
            yield child, (keyword, str(index))
    for keyword in _SCHEMAS:
        if keyword in node:
            yield node[keyword], (keyword,)


def _pointer(base: str, steps: Path) -> str:
    return base + "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in steps)


def _check_references(root: Any, pointers: dict[str, Any], *, has_inner_ids: bool) -> None:
    dialect = root.get("$schema", "") if isinstance(root, dict) else ""
    is_older = isinstance(dialect, str) and bool(dialect) and "2020-12" not in dialect
    for pointer, node in pointers.items():
        if not isinstance(node, dict):
            continue
        path = tuple(step for step in pointer.split("/")[1:])
        if "prefixItems" in node and is_older:
            raise SchemaError(path, f"prefixItems is not of {dialect}")
        if "$ref" in node and has_inner_ids:
            raise SchemaError(path, "$ref is not supported where an inner schema has an $id")
        if "$ref" in node and normal_pointer(node["$ref"]) not in pointers:
            raise SchemaError(path, f"$ref: {node['$ref']!r} is no schema of this document; others are not fetched")


def normal_pointer(reference: str) -> str:
    """A `$ref` as `check_schema` writes pointers."""
    from urllib.parse import unquote

    return unquote(reference) if reference.startswith("#/") else "#" if reference in ("#", "#/") else reference


def _check_node(node: Schema, path: Path) -> None:
    for keyword, value in node.items():
        if keyword in CLAIMED or keyword in ANNOTATIONS:
            if check := _FORMS.get(keyword):
                check(keyword, value, path)
        elif not keyword.startswith("x-"):
            known = "is not supported" if keyword in REFUSED else "is no keyword that is supported"
            raise SchemaError(path, f"{keyword} {known}")
    _check_contradictions(node, path)


def _check_contradictions(node: Schema, path: Path) -> None:
    for low, high in (
        ("minimum", "maximum"),
        ("minLength", "maxLength"),
        ("minItems", "maxItems"),
        ("minProperties", "maxProperties"),
    ):
        if low in node and high in node and node[low] > node[high]:
            raise SchemaError(path, f"{low} is {node[low]}, which is more than {high}, {node[high]}")
    lows = [node[key] for key in ("minimum", "exclusiveMinimum") if key in node]
    highs = [node[key] for key in ("maximum", "exclusiveMaximum") if key in node]
    if lows and highs:
        least, most = max(lows), min(highs)
        is_open = least == node.get("exclusiveMinimum") or most == node.get("exclusiveMaximum")
        if least > most or (least == most and is_open):
            raise SchemaError(path, f"no number is above the lower bound {least} and below the upper bound {most}")
    _check_required(node, path)


def _check_required(node: Schema, path: Path) -> None:
    properties = node.get("properties", {})
    for name in node.get("required", ()):
        if properties.get(name, True) is False:
            raise SchemaError(path, f"required: {name!r} is forbidden by properties")
        is_closed = node.get("additionalProperties") is False and "patternProperties" not in node
        if name not in properties and is_closed:
            raise SchemaError(path, f"required: {name!r} is forbidden by additionalProperties")
    most = node.get("maxProperties")
    if most is not None and len(set(node.get("required", ()))) > most:
        raise SchemaError(path, f"required: has {len(node['required'])} names, more than maxProperties, {most}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _parse_float(text: str) -> float:
    number = float(text)
    if number in (float("inf"), float("-inf")):
        raise ValueError(f"{text} is beyond what a double holds")
    return number


def _must(condition: bool, keyword: str, path: Path, accepted: str, value: Any) -> None:
    if not condition:
        raise SchemaError(path, f"{keyword} must be {accepted}, got {json.dumps(value)[:40]}")


def _form_of_type(keyword: str, value: Any, path: Path) -> None:
    names = value if isinstance(value, list) else [value]
    if not names or not all(isinstance(name, str) and name in TYPES for name in names):
        accepted = ", ".join(TYPES)
        raise SchemaError(path, f"{keyword} must be one or a list of {accepted}, got {json.dumps(value)[:40]}")


def _form_of_count(keyword: str, value: Any, path: Path) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    _must(whole, keyword, path, "a whole number of at least 0", value)
    if value > MAX_COUNT:
        raise SchemaError(path, f"{keyword} is {value}; at most {MAX_COUNT} is supported")


def _form_of_number(keyword: str, value: Any, path: Path) -> None:
    _must(isinstance(value, int | float) and not isinstance(value, bool), keyword, path, "a number", value)


def _form_of_map(keyword: str, value: Any, path: Path) -> None:
    _must(isinstance(value, dict), keyword, path, "an object", value)


def _form_of_list(keyword: str, value: Any, path: Path) -> None:
    _must(isinstance(value, list) and bool(value), keyword, path, "a list that is not empty", value)
    if keyword == "enum" and len(value) > MAX_ENUM:
        raise SchemaError(path, f"enum has {len(value)} values; at most {MAX_ENUM} are accepted")


def _form_of_names(keyword: str, value: Any, path: Path) -> None:
    names = isinstance(value, list) and all(isinstance(name, str) for name in value)
    _must(names, keyword, path, "a list of strings", value)


def _form_of_text(keyword: str, value: Any, path: Path) -> None:
    _must(isinstance(value, str), keyword, path, "a string", value)


def _form_of_format(keyword: str, value: Any, path: Path) -> None:
    _form_of_text(keyword, value, path)
    if value not in FORMATS:
        raise SchemaError(path, f"format: {value!r} is not supported; supported are {', '.join(sorted(FORMATS))}")


def _form_of_unique(keyword: str, value: Any, path: Path) -> None:
    _must(isinstance(value, bool), keyword, path, "a boolean", value)
    if value:
        raise SchemaError(path, "uniqueItems is not supported")


def _form_of_items(keyword: str, value: Any, path: Path) -> None:
    if isinstance(value, list):
        raise SchemaError(path, "items as a list is not supported; use prefixItems")


def _form_of_multiple(keyword: str, value: Any, path: Path) -> None:
    _form_of_number(keyword, value, path)
    _must(value > 0, keyword, path, "above 0", value)
    if value != int(value):
        raise SchemaError(path, f"multipleOf is not supported for {value}; only whole numbers are")


def _form_of_dialect(keyword: str, value: Any, path: Path) -> None:
    known = isinstance(value, str) and any(name in value for name in _DIALECTS)
    _must(known, keyword, path, f"one of {', '.join(_DIALECTS)}", value)


_FORMS: dict[str, Callable[[str, Any, Path], None]] = {
    "type": _form_of_type,
    "enum": _form_of_list,
    "required": _form_of_names,
    "$ref": _form_of_text,
    "pattern": _form_of_text,
    "format": _form_of_format,
    "uniqueItems": _form_of_unique,
    "items": _form_of_items,
    "multipleOf": _form_of_multiple,
    "$schema": _form_of_dialect,
    **dict.fromkeys(_COUNTS, _form_of_count),
    **dict.fromkeys(_LIMITS, _form_of_number),
    **dict.fromkeys(_MAPS_OF_SCHEMAS, _form_of_map),
    **dict.fromkeys(_LISTS_OF_SCHEMAS, _form_of_list),
}


def describe() -> str:
    """What is enforced, on what conditions, and what is refused."""
    groups = {
        "Enforced": sorted(CLAIMED),
        "Without effect": [*sorted(ANNOTATIONS), "x-…"],
        "Refused": [*sorted(REFUSED), "and any other"],
    }
    lines = [textwrap.fill(f"{name}: {', '.join(words)}.", 116) for name, words in groups.items()]
    lines.insert(1, "\n".join(["On conditions:", *(f"- {text}" for text in CONDITIONS)]))
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Print it."""
    sys.stdout.write(describe())


if __name__ == "__main__":
    main()
