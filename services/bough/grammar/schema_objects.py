"""The objects of JSON schemas as grammars."""

from __future__ import annotations

import json
from typing import Any, Protocol

from bough.grammar import json_text as jt
from bough.grammar.automaton import AutomatonError
from bough.grammar.ebnf import (
    EMPTY,
    NOTHING,
    Expr,
    Literal,
    OneOf,
    Ref,
    Repeat,
    alt,
    complement,
    intersect,
    normalize,
    optional,
    seq,
)
from bough.grammar.pattern import PatternError, pattern_string
from bough.grammar.schema_check import Path, Schema, SchemaError

MAX_STATES = 20_000
"""Rules that the properties of one object may take: their number times what counts them."""


class RuleMaker(Protocol):
    """What makes rules of inner schemas."""

    def convert(self, schema: Any, path: Path) -> Ref:
        """The rule of a schema."""

    def add_rule(self, base: str, expr: Expr) -> Ref:
        """A further rule."""

    def add_terminal(self, base: str, *exprs: Expr) -> Ref:
        """Rules for an expression without references."""


def object_rules(maker: RuleMaker, rule: str, schema: Schema, path: Path) -> Expr:
    """An object: the properties that are listed, in their order, then others.

    Raises:
        SchemaError: A combination of keywords that is not supported.
    """
    _check_combination(schema, path)
    required = set(schema.get("required", ()))
    rest = _rest_of(schema)
    properties = dict(schema.get("properties", {}))
    for name in schema.get("required", ()):
        properties.setdefault(name, schema.get("additionalProperties", True))
    members = [(_member(maker, name, properties[name], path), name in required) for name in properties]
    least, most = schema.get("minProperties", 0), schema.get("maxProperties")
    if rest is not None and least > max(1, len(required) + 1):
        raise SchemaError(
            path, "minProperties beyond one more than are required is not supported where others may come"
        )
    extra = None
    if rest is not None:
        extra = _extra_member(maker, rule, schema, list(properties), path)
    counts = _Counts(least, most)
    body = _chain(maker, rule, members, extra, counts, path)
    return seq(Literal("{"), jt.WS, body, jt.WS, Literal("}"))


class _Counts:
    """How many members there must be, and up to where they are told apart."""

    def __init__(self, least: int, most: int | None) -> None:
        self.least, self.most = least, most
        self.cap = max(least, 1) if most is None else max(most, least, 1)

    def after(self, count: int) -> int | None:
        """The count with one more; None where that is too many."""
        if self.most is not None and count + 1 > self.most:
            return None
        return min(count + 1, self.cap)


def _chain(
    maker: RuleMaker,
    rule: str,
    members: list[tuple[Expr, bool]],
    extra: Expr | None,
    counts: _Counts,
    path: Path,
) -> Expr:
    """The members from each one on, for each number of those before it, made from the end."""
    highest = min(counts.cap, max(len(members), 1))
    if len(members) * (highest + 1) > MAX_STATES:
        raise SchemaError(
            path, f"properties: {len(members)} with counts up to {highest} take more than {MAX_STATES} states"
        )
    states: list[Expr] = [_others(extra, count, counts) for count in range(highest + 1)]
    for member, is_required in reversed(members):
        before: list[Expr] = []
        for count in range(highest + 1):
            after = counts.after(count)
            take: Expr = NOTHING
            if after is not None:
                parts = [member, states[min(after, highest)]]
                take = seq(*parts) if count == 0 else seq(jt.COMMA, *parts)
            state = take if is_required else alt(take, states[count])
            before.append(maker.add_rule(rule, state))
        states = before
    return states[0]


def _others(extra: Expr | None, count: int, counts: _Counts) -> Expr:
    """What may follow the listed properties when `count` of them were written."""
    least = max(0, counts.least - count)
    most = None if counts.most is None else counts.most - count
    if extra is None or most == 0:
        return EMPTY if least == 0 else NOTHING
    if count:
        return Repeat(seq(jt.COMMA, extra), least, most)
    if most is not None and most < least:
        return NOTHING
    some = seq(extra, Repeat(seq(jt.COMMA, extra), max(0, least - 1), None if most is None else most - 1))
    return some if least else optional(some)


def _check_combination(schema: Schema, path: Path) -> None:
    if "propertyNames" in schema and ("properties" in schema or "required" in schema or "patternProperties" in schema):
        raise SchemaError(path, "propertyNames is not supported beside properties, required or patternProperties")
    patterns = schema.get("patternProperties", {})
    if not patterns:
        return
    if "properties" in schema or "required" in schema:
        raise SchemaError(path, "patternProperties is not supported beside properties or required")
    if len(patterns) > 1:
        raise SchemaError(path, "patternProperties with more than one pattern is not supported")
    if schema.get("additionalProperties", False) is not False:
        raise SchemaError(path, "patternProperties is not supported beside open additionalProperties")


def _rest_of(schema: Schema) -> Any:
    """The schema of the properties that are not listed; None where none is written."""
    if schema.get("patternProperties"):
        return next(iter(schema["patternProperties"].values()))
    if "additionalProperties" in schema:
        return None if schema["additionalProperties"] is False else schema["additionalProperties"]
    return None if schema.get("properties") else True


def _member(maker: RuleMaker, name: str, schema: Any, path: Path) -> Expr:
    return seq(jt.value(name), jt.COLON, maker.convert(schema, (*path, "properties", name)))


def _extra_member(maker: RuleMaker, rule: str, schema: Schema, names: list[str], path: Path) -> Expr:
    value = maker.convert(_rest_of(schema), (*path, "additionalProperties"))
    if schema.get("patternProperties"):
        pattern = next(iter(schema["patternProperties"]))
        try:
            name = maker.add_terminal(rule, pattern_string(pattern))
        except (PatternError, AutomatonError) as error:
            raise SchemaError((*path, "patternProperties"), f"{pattern!r}: {error}") from None
        return seq(name, jt.COLON, value)
    if "propertyNames" in schema:
        return seq(_name_of(maker, schema["propertyNames"], path), jt.COLON, value)
    key = seq(jt.QUOTE, _other_key(maker, rule, names)) if names else jt.STRING
    return seq(key, jt.COLON, value)


def _name_of(maker: RuleMaker, names: Any, path: Path) -> Expr:
    """A key by `propertyNames`, which must say that it is a string where it could be anything else."""
    if isinstance(names, dict):
        names = {"allOf": [{"type": "string"}, names]}
    return maker.convert(names if names is not True else {"type": "string"}, (*path, "propertyNames"))


def _other_key(maker: RuleMaker, rule: str, names: list[str]) -> Expr:
    """The rest of a key, its closing quote included, that is none of some names.

    One that repeats a name would take the place of the member before it. Keys here have no escapes, which could spell a
    name in another way.
    """
    plain = Repeat(OneOf(jt.RAW))
    tree: dict[str, Any] = {}
    for name in names:
        if json.dumps(name, ensure_ascii=False)[1:-1] != name:
            continue  # it has an escape, and no key here has one
        node = tree
        for char in name:
            node = node.setdefault(char, {})
        node[""] = True

    def below(node: dict[str, Any]) -> Expr:
        known = [char for char in node if char]
        free = intersect(jt.RAW, complement(normalize((ord(char), ord(char)) for char in known)))
        options: list[Expr] = [] if "" in node else [jt.QUOTE]
        options.append(seq(OneOf(free), plain, jt.QUOTE))
        options += [seq(Literal(char), made[id(node[char])]) for char in known]
        return maker.add_rule(rule, alt(*options))

    made: dict[int, Expr] = {}
    order = [tree]
    for node in order:  # grows while it is walked
        order += [child for char, child in node.items() if char]
    for node in reversed(order):
        made[id(node)] = below(node)
    return made[id(tree)]
