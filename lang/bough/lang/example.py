"""Values that are made up, for programs that run without a model."""

from __future__ import annotations

import json
from typing import Any

from bough.lang.output import EXAMPLES, Constraint

_MAX_DEPTH = 32


def placeholder(name: str | None) -> str:
    """What stands for a text that is not known."""
    return f"⟨{name or 'text'}⟩"


def text_for(name: str | None, constraint: Constraint | None) -> str:
    """A text that a call could have had; for a grammar, and for a pattern that is not of a type, any text."""
    if constraint is not None and constraint.kind == "json_schema":
        return json.dumps(example_of(json.loads(constraint.source), name or "text"), ensure_ascii=False)
    return placeholder(name) if constraint is None else EXAMPLES.get(constraint.source, placeholder(name))


def example_of(schema: Any, name: str) -> Any:
    """A small value that fits a schema, as far as types, properties, items and choices of it say.

    Args:
        schema: The schema.
        name: What texts are made of.
    """
    return _example(schema, schema, name, 0)


def _example(schema: Any, root: Any, name: str, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    for fixed in ("default", "const"):
        if fixed in schema:
            return schema[fixed]
    if schema.get("enum"):
        return schema["enum"][0]
    if "$ref" in schema:
        return _example(_resolved(schema["$ref"], root), root, name, depth + 1)
    for several in ("anyOf", "oneOf", "allOf"):
        if schema.get(several):
            return _example(schema[several][0], root, name, depth + 1)
    return _of_type(schema, root, name, depth)


def _of_type(schema: dict[str, Any], root: Any, name: str, depth: int) -> Any:
    kind = schema.get("type")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            properties = schema.get("properties") or {}
            wanted = schema.get("required") or ()
            return {key: _example(properties.get(key), root, key, depth + 1) for key in wanted}
        case "array":
            return [_example(schema.get("items"), root, name, depth + 1)] * max(1, schema.get("minItems", 1))
        case "integer" | "number":
            return schema.get("minimum", schema.get("exclusiveMinimum", -1) + 1)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return placeholder(name)


def _resolved(reference: str, root: Any) -> Any:
    found = root
    for part in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(part.replace("~1", "/").replace("~0", "~")) if part and isinstance(found, dict) else found
    return found
