"""Schemas that are made of others ($ref, allOf, anyOf, oneOf) as alternatives of plain ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

from bough.grammar.schema_check import ANNOTATIONS, BY_TYPE, COMBINING, Path, Schema, SchemaError, normal_pointer

MAX_ALTERNATIVES = 256
"""Plain schemas that one schema may become."""
MAX_REFERENCES = 64
"""References that may lead from one schema to the next without a property or an item between them."""

_KEEP_GREATER = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_KEEP_LESS = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")


class Conflict(Exception):
    """Two schemas cannot be joined into one; the argument is the keyword."""


class Flattener:
    """Resolves what schemas of one document are made of.

    Args:
        pointers: The document's schemas by their JSON pointers.
    """

    def __init__(self, pointers: Mapping[str, Any]) -> None:
        self._pointers = pointers

    def target(self, reference: str) -> Any:
        """The schema that a `$ref` names."""
        return self._pointers[normal_pointer(reference)]

    def flatten(self, schema: Any, path: Path, *, depth: int = 0) -> list[Schema]:
        """Plain schemas, of which a value must fit one; none where no value fits.

        Raises:
            SchemaError: The parts cannot be joined, or a reference leads back to itself.
        """
        if isinstance(schema, bool):
            return [{}] if schema else []
        if depth > MAX_REFERENCES:
            raise SchemaError(path, "$ref leads to itself with no property or item between")
        plain = {key: value for key, value in schema.items() if key not in COMBINING and not _is_annotation(key)}
        if "const" in plain:
            plain = join(plain, {"enum": [plain.pop("const")]})
        found = [plain]
        if "$ref" in schema:
            target = self.target(schema["$ref"])
            found = self._product(found, self.flatten(target, path, depth=depth + 1), (*path, "$ref"))
        for index, part in enumerate(schema.get("allOf", ())):
            inner = (*path, "allOf", str(index))
            found = self._product(found, self.flatten(part, inner, depth=depth + 1), inner)
        for keyword in ("anyOf", "oneOf"):
            if keyword in schema:
                found = self._product(found, self._branches(schema[keyword], keyword, path, depth), (*path, keyword))
        return found

    def _branches(self, branches: list[Any], keyword: str, path: Path, depth: int) -> list[Schema]:
        flat = [
            self.flatten(part, (*path, keyword, str(index)), depth=depth + 1) for index, part in enumerate(branches)
        ]
        if keyword == "oneOf":
            self.check_disjoint(flat, path)
        return [one for branch in flat for one in branch]

    def check_disjoint(self, branches: list[list[Schema]], path: Path) -> None:
        """Raises SchemaError unless what is written for one branch never fits another."""
        if len(branches) > MAX_ALTERNATIVES:
            raise SchemaError(path, f"oneOf has {len(branches)} branches; at most {MAX_ALTERNATIVES} are supported")
        for (i, left), (j, right) in combinations(enumerate(branches), 2):
            for one in left:
                for other in right:
                    if not (self._never_fits(one, other) and self._never_fits(other, one)):
                        raise SchemaError(path, f"oneOf: branches {i} and {j} may both hold; anyOf is supported")

    def _never_fits(self, written: Schema, other: Schema) -> bool:
        """Whether no output that is written for one schema holds for another."""
        types = written_types(written)
        if not _overlap(types, held_types(other)):
            return True
        if "enum" in written and "enum" in other:
            return not {canonical(value) for value in written["enum"]} & {canonical(value) for value in other["enum"]}
        if types <= {"integer", "number"}:
            return _number_above(written, other) or _number_above(other, written)
        return types == {"object"} and self._objects_differ(written, other)

    def _objects_differ(self, written: Schema, other: Schema) -> bool:
        properties, others = written.get("properties", {}), other.get("properties", {})
        if is_closed(written) and not set(other.get("required", ())) <= set(properties):
            return True
        for name in written.get("required", ()):
            values, other_values = self._values_of(properties.get(name)), self._values_of(others.get(name))
            if values is not None and other_values is not None and not values & other_values:
                return True
        return False

    def _values_of(self, schema: Any) -> set[str] | None:
        """The values that a schema lists, or None where it does not."""
        if schema is None:
            return None
        try:
            found = self.flatten(schema, ())
        except SchemaError:
            return None
        if any("enum" not in one for one in found):
            return None
        return {canonical(value) for one in found for value in one["enum"]}

    def _product(self, left: list[Schema], right: list[Schema], path: Path) -> list[Schema]:
        if len(left) * len(right) > MAX_ALTERNATIVES:
            raise SchemaError(path, f"makes more than {MAX_ALTERNATIVES} alternatives together with what is beside it")
        try:
            return [join(one, other) for one in left for other in right]
        except Conflict as conflict:
            raise SchemaError(path, f"{conflict} is not supported beside another {conflict}") from None


def join(left: Schema, right: Schema) -> Schema:
    """One plain schema for what two ask for together.

    Raises:
        Conflict: There is none that is supported.
    """
    joined: Schema = {}
    for key in [*left, *(key for key in right if key not in left)]:
        if key in ("properties", "additionalProperties"):
            continue
        if key in left and key in right:
            joined[key] = left[key] if left[key] == right[key] and key != "enum" else _join_values(key, left, right)
        else:
            joined[key] = left.get(key, right.get(key))
    _join_properties(joined, left, right)
    if ("prefixItems" in left) != ("prefixItems" in right) and "items" in left and "items" in right:
        raise Conflict("items")
    for here, there in ((left, right), (right, left)):
        # The items of one side would have to hold for the prefix of the other, too.
        if "prefixItems" in here and "items" in there and "items" not in here:
            raise Conflict("items")
    return joined


def _join_values(key: str, left: Schema, right: Schema) -> Any:
    one, other = left[key], right[key]
    if key in _KEEP_GREATER:
        return max(one, other)
    if key in _KEEP_LESS:
        return min(one, other)
    if key == "type":
        return _join_types(_as_list(one), _as_list(other))
    if key == "enum":
        known = {canonical(value) for value in other}
        return [value for value in one if canonical(value) in known]
    if key == "required":
        return [*one, *(name for name in other if name not in one)]
    if key in ("items", "propertyNames"):
        return _both(one, other)
    raise Conflict(key)


def _join_types(one: list[str], other: list[str]) -> list[str]:
    joined = [name for name in one if name in other]
    for first, second in ((one, other), (other, one)):
        if "integer" in first and "number" in second and "integer" not in joined and "number" not in joined:
            joined.append("integer")
    return joined


def _join_properties(joined: Schema, left: Schema, right: Schema) -> None:
    sides = (left, right)
    has_rest = ["additionalProperties" in side or "patternProperties" in side for side in sides]
    if any("patternProperties" in side for side in sides) and any("properties" in side for side in sides):
        raise Conflict("patternProperties")
    names = list(dict.fromkeys(name for side in sides for name in side.get("properties", {})))
    if any("properties" in side for side in sides):
        joined["properties"] = {name: _property(name, left, right) for name in names}
    if any("patternProperties" in side for side in sides) and all(has_rest):
        raise Conflict("patternProperties")
    rests = [side["additionalProperties"] for side in sides if "additionalProperties" in side]
    if rests:
        joined["additionalProperties"] = _both(*rests) if len(rests) == 2 else rests[0]


def _property(name: str, left: Schema, right: Schema) -> Any:
    """What a property must be by both: by its own schema, or by that of the properties that are not listed."""
    asked = [
        side["properties"][name] if name in side.get("properties", {}) else side.get("additionalProperties", True)
        for side in (left, right)
    ]
    return _both(*asked)


def _both(one: Any, other: Any) -> Any:
    if one is True or one == other:
        return other
    if other is True:
        return one
    return False if one is False or other is False else {"allOf": [one, other]}


def canonical(value: Any) -> str:
    """Equal for values that JSON Schema calls equal: 1 and 1.0 are, 1 and true are not."""
    return json.dumps(_canonical(value), sort_keys=True)


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_canonical(item) for item in value]
    if isinstance(value, dict):
        return {key: _canonical(item) for key, item in value.items()}
    return value


def type_of(value: Any) -> str:
    """The JSON type of a value; whole numbers are integers, however they are written."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "integer" if value == value // 1 else "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def written_types(schema: Schema) -> set[str]:
    """The types of the outputs that are written for a plain schema.

    Where it names none, the types that its keywords speak of: who writes `properties` means an object.
    """
    named = set(_as_list(schema["type"])) if "type" in schema else None
    if "enum" in schema:
        held = {type_of(value) for value in schema["enum"]}
        # A whole number is of both types of numbers, any other is not an integer.
        return held if named is None else {n for n in held if n in named or (n == "integer" and "number" in named)}
    if named is not None:
        return named
    return {name for name, keywords in BY_TYPE.items() if keywords & schema.keys()} or set(_ALL_TYPES)


def held_types(schema: Schema) -> set[str]:
    """The types of the values that hold for a plain schema, as validators see it."""
    return written_types(schema) if "type" in schema or "enum" in schema else set(_ALL_TYPES)


def is_closed(schema: Schema) -> bool:
    """Whether no property is written for a plain schema that it does not list.

    Properties that are listed and no word on others: others are allowed and not written.
    """
    if "additionalProperties" in schema:
        return schema["additionalProperties"] is False and "patternProperties" not in schema
    return "properties" in schema and "patternProperties" not in schema


_ALL_TYPES = ("null", "boolean", "number", "string", "array", "object")


def _overlap(one: set[str], other: set[str]) -> bool:
    numbers = {"integer", "number"}
    return bool(one & other) or bool(one & numbers and other & numbers)


def _number_above(one: Schema, other: Schema) -> bool:
    """Whether the numbers of one schema are all above those of another."""
    low = _bounds(one, ("minimum", "exclusiveMinimum"), max)
    high = _bounds(other, ("maximum", "exclusiveMaximum"), min)
    return low is not None and high is not None and bool(low > high)


def _bounds(schema: Schema, keys: tuple[str, str], pick: Callable[..., Any]) -> Any:
    found = [schema[key] for key in keys if key in schema]
    return pick(found) if found else None


def _as_list(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _is_annotation(key: str) -> bool:
    return key in ANNOTATIONS or key.startswith("x-")
