"""A grammar that is walked through once when a process starts, so that the masks which most schemas share are there."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import xgrammar

_VALUES: dict[str, tuple[dict[str, Any], Any]] = {
    "text": ({"type": "string"}, 'Grüße, "quoted",\n\ttwice: \\ é 😀 '),
    "short": ({"type": "string", "maxLength": 40}, "a few words"),
    "count": ({"type": "integer"}, -1024),
    "amount": ({"type": "number"}, -0.25e-3),
    "percent": ({"type": "integer", "minimum": 0, "maximum": 100}, 42),
    "flag": ({"type": "boolean"}, True),
    "kind": ({"enum": ["red", "green"]}, "green"),
    "none": ({"type": "null"}, None),
    "names": ({"type": "array", "items": {"type": "string"}}, ["one", "two"]),
    "numbers": ({"type": "array", "items": {"type": "number"}}, [1, 2.5]),
    "more": ({"type": "object"}, {"any": ["thing", {"at": 1}, False]}),
}

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {name: schema for name, (schema, _) in _VALUES.items()},
        "required": list(_VALUES),
        "additionalProperties": False,
    }
)
TEXT = json.dumps({name: value for name, (_, value) in _VALUES.items()}, ensure_ascii=False)
"""Holds for the schema and has each kind of value."""


def walk(compiled: xgrammar.CompiledGrammar, vocab_size: int) -> None:
    """Have the masks made that are asked for while `TEXT` is written, one character after the other.

    Args:
        compiled: of `SCHEMA`.
        vocab_size: columns of the logits.

    Raises:
        RuntimeError: the text does not hold for the grammar.
    """
    import xgrammar

    bitmask = xgrammar.allocate_token_bitmask(1, vocab_size)
    matcher = xgrammar.GrammarMatcher(compiled)
    for character in TEXT:
        matcher.fill_next_token_bitmask(bitmask, 0)
        if not matcher.accept_string(character):
            raise RuntimeError(f"{character!r} of {TEXT} does not fit the grammar")
    matcher.fill_next_token_bitmask(bitmask, 0)
