"""JSON schemas as grammars.

An output holds for the schema it was written for; not every value that holds can be written: properties come in the
schema's order, and those that it does not list only where it speaks of them (or lists none).
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from bough.grammar import json_text as jt
from bough.grammar.automaton import AutomatonError
from bough.grammar.ebnf import NOTHING, Alt, Expr, Literal, Ref, Repeat, alt, find_unit_cycle, print_grammar, seq
from bough.grammar.pattern import PatternError
from bough.grammar.ranges import Bound, RangeError, bounded_integer, bounded_number, multiples
from bough.grammar.schema_check import BY_TYPE, COMBINING, Path, Schema, SchemaError, check_schema, parse_json
from bough.grammar.schema_merge import Flattener, canonical, type_of, written_types
from bough.grammar.schema_objects import object_rules
from bough.grammar.schema_strings import string_error, string_rules

MAX_RULES = 50_000
MAX_GRAMMAR_CHARS = 16 << 20


def schema_grammar(text: str) -> str:
    """The EBNF of the JSON texts that hold for a schema.

    Raises:
        SchemaError: The schema is wrong, has something that is not enforced, is too large, or nothing holds for it.
    """
    return schema_value_grammar(parse_json(text))


def schema_value_grammar(schema: Any) -> str:
    """As `schema_grammar`, of a parsed schema."""
    builder = Builder(check_schema(schema))
    root = builder.convert(schema, ())
    builder.run()
    if find_unit_cycle(builder.rules) is not None:
        raise SchemaError((), "$ref leads to itself with no property or item between")
    printed = print_grammar(builder.rules, root.rule)
    if printed is None:
        raise SchemaError((), "cannot be satisfied: no value holds for it")
    if len(printed) > MAX_GRAMMAR_CHARS:
        raise SchemaError(
            (), f"makes a grammar of {len(printed)} characters; at most {MAX_GRAMMAR_CHARS} are supported"
        )
    return printed


class Builder:
    """Makes rules of schemas; equal schemas share theirs."""

    def __init__(self, pointers: dict[str, Any]) -> None:
        self.rules = jt.base_rules()
        self._flattener = Flattener(pointers)
        self._known: dict[str, Ref] = {}
        self._queue: list[tuple[str, Any, Path]] = []

    def convert(self, schema: Any, path: Path) -> Ref:
        """The rule of a schema, which `run` fills in."""
        if schema is True or schema == {}:
            return jt.ANY
        key = json.dumps(schema)
        ref = self._known.get(key)
        if ref is None:
            ref = self._known[key] = Ref(f"r{len(self._known)}")
            self.rules[ref.rule] = NOTHING
            self._queue.append((ref.rule, schema, path))
            if len(self._known) > MAX_RULES:
                raise SchemaError(path, f"the schema makes more than {MAX_RULES} rules")
        return ref

    def add_rule(self, base: str, expr: Expr) -> Ref:
        """A further rule, named after another."""
        name = f"{base}_{len(self.rules)}"
        self.rules[name] = expr
        if len(self.rules) > MAX_RULES:
            raise SchemaError((), f"makes more than {MAX_RULES} rules")
        return Ref(name)

    def add_terminal(self, base: str, *exprs: Expr) -> Ref:
        """Rules for what all of some expressions without references have. AutomatonError when it takes too many."""
        name = f"{base}_t{len(self.rules)}"
        self.rules.update(jt.terminal(name, *exprs))
        return Ref(name)

    def run(self) -> None:
        """Fill in all rules."""
        while self._queue:
            rule, schema, path = self._queue.pop()
            self.rules[rule] = self._body(rule, schema, path)

    def _body(self, rule: str, schema: Any, path: Path) -> Expr:
        if schema is False:
            return NOTHING
        own = [key for key in schema if key in COMBINING]
        others = [key for key in schema if key in ("type", "enum", "const") or any(key in k for k in BY_TYPE.values())]
        if own == ["$ref"] and not others:
            # Stays a reference, so that what contains itself can be written.
            target = self._flattener.target(schema["$ref"])
            return self.convert(target, tuple(schema["$ref"].split("/")[1:]))
        if own in (["anyOf"], ["oneOf"]) and not others:
            branches = schema[own[0]]
            if own == ["oneOf"]:
                self._flattener.flatten({"oneOf": branches}, path)
            return alt(*(self.convert(part, (*path, own[0], str(i))) for i, part in enumerate(branches)))
        return Alt(tuple(self._plain(rule, one, path) for one in self._flattener.flatten(schema, path)))

    def _plain(self, rule: str, schema: Schema, path: Path) -> Expr:
        if "enum" in schema:
            return self._enum(schema, path)
        if "type" not in schema and not any(keywords & schema.keys() for keywords in BY_TYPE.values()):
            return jt.ANY
        return Alt(tuple(self._of_type(name, rule, schema, path) for name in sorted(written_types(schema))))

    def _enum(self, schema: Schema, path: Path) -> Expr:
        for keywords in BY_TYPE.values():
            for key in keywords & schema.keys():
                raise SchemaError(path, f"{key} is not supported beside enum or const")
        types = written_types(schema)
        kept = {canonical(value): value for value in schema["enum"] if type_of(value) in types}
        return alt(*(jt.value(value) for value in kept.values()))

    def _of_type(self, name: str, rule: str, schema: Schema, path: Path) -> Expr:
        if name == "null":
            return Literal("null")
        if name == "boolean":
            return alt(Literal("true"), Literal("false"))
        if name == "string":
            return self._string(rule, schema, path)
        if name in ("integer", "number"):
            return self._number(rule, name, schema, path)
        return self._array(rule, schema, path) if name == "array" else object_rules(self, rule, schema, path)

    def _string(self, rule: str, schema: Schema, path: Path) -> Expr:
        """A string by its length, pattern and format."""
        rules = string_rules(schema, path)
        if not rules.patterns:
            return jt.counted_string(self.rules, rules.least, rules.most) if rules.is_counted else jt.STRING
        try:
            return self.add_terminal(rule, *rules.exprs())
        except (PatternError, AutomatonError) as error:
            raise string_error(schema, path, error) from None

    def _number(self, rule: str, name: str, schema: Schema, path: Path) -> Expr:
        low = _bound(schema, "minimum", "exclusiveMinimum", max)
        high = _bound(schema, "maximum", "exclusiveMaximum", min)
        try:
            if "multipleOf" in schema:
                if name == "number":
                    raise SchemaError(path, "multipleOf is supported only for type integer")
                expr, rules = multiples(int(schema["multipleOf"]), low, high)
                self.rules.update(rules)
                return expr
            if low is None and high is None:
                return Ref(name)
            bounded = bounded_integer(low, high) if name == "integer" else bounded_number(low, high)
            return self.add_terminal(rule, bounded)
        except (RangeError, AutomatonError) as error:
            raise SchemaError(path, str(error)) from None

    def _array(self, rule: str, schema: Schema, path: Path) -> Expr:
        prefix = schema.get("prefixItems", [])
        least, most = schema.get("minItems", 0), schema.get("maxItems")
        rest = schema.get("items", not prefix or least > len(prefix))
        item = self.convert(rest, (*path, "items"))
        tail = _items_after(item, max(least - len(prefix), 0), None if most is None else most - len(prefix))
        for index in reversed(range(len(prefix))):
            here = self.convert(prefix[index], (*path, "prefixItems", str(index)))
            body = seq(here, tail) if index == 0 else seq(jt.COMMA, here, tail)
            if most is not None and index >= most:
                tail = Literal("")
                continue
            tail = self.add_rule(rule, body if index < least else Repeat(body, 0, 1))
        if not prefix:
            tail = _items(item, least, most)
        return seq(Literal("["), jt.WS, tail, jt.WS, Literal("]"))


def _items(item: Expr, least: int, most: int | None) -> Expr:
    """Items with commas between them."""
    if most is not None and most < max(least, 1):
        return Literal("") if least == most == 0 else NOTHING
    some = seq(item, _items_after(item, max(least - 1, 0), None if most is None else most - 1))
    return some if least else Repeat(some, 0, 1)


def _items_after(item: Expr, least: int, most: int | None) -> Expr:
    """Items behind others, each with its comma."""
    if most is not None and most < least:
        return NOTHING
    return Literal("") if most is not None and most <= 0 else Repeat(seq(jt.COMMA, item), least, most)


def _bound(schema: Schema, inclusive: str, exclusive: str, pick: Any) -> Bound | None:
    found = [Bound(Decimal(str(schema[key])), key == exclusive) for key in (inclusive, exclusive) if key in schema]
    if len(found) == 2 and found[0].value == found[1].value:
        return found[1]
    return pick(found, key=lambda bound: bound.value) if found else None
