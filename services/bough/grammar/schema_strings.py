"""Strings that must have a length, match a pattern and be of a format, each or all of them together."""

from __future__ import annotations

from dataclasses import dataclass

from bough.grammar.ebnf import Expr, Repeat, seq
from bough.grammar.formats import format_pattern
from bough.grammar.json_text import QUOTE, short_char
from bough.grammar.pattern import PatternError, pattern_lengths, pattern_string
from bough.grammar.schema_check import BY_TYPE, Path, Schema, SchemaError

_KEYWORDS = BY_TYPE["string"]


@dataclass(frozen=True, slots=True)
class StringRules:
    """What a string must be."""

    patterns: list[str]
    """All of them match it."""
    least: int
    """Characters; what the patterns imply is left out."""
    most: int | None

    @property
    def is_counted(self) -> bool:
        """There is a bound of its length."""
        return self.least > 0 or self.most is not None

    def exprs(self) -> list[Expr]:
        """Of JSON strings, each of which a string must be. PatternError where a pattern is not read here."""
        found = [pattern_string(pattern) for pattern in self.patterns]
        if self.is_counted:
            found.append(seq(QUOTE, Repeat(short_char(), self.least, self.most), QUOTE))
        return found


def string_rules(schema: Schema, path: Path) -> StringRules:
    """What a plain schema says of strings.

    Raises:
        SchemaError: A pattern is not read here.
    """
    least, most = schema.get("minLength", 0), schema.get("maxLength")
    patterns = [schema["pattern"]] if "pattern" in schema else []
    if "format" in schema:
        patterns.append(format_pattern(schema["format"], most))
    try:
        bounds = [pattern_lengths(pattern) for pattern in patterns]
    except PatternError as error:
        raise SchemaError(path, f"pattern: {error}") from None
    if any(low >= least for low, _ in bounds):
        least = 0
    if most is not None and any(high is not None and high <= most for _, high in bounds):
        most = None
    return StringRules(patterns, least, most)


def string_error(schema: Schema, path: Path, what: object) -> SchemaError:
    """What is wrong with strings, with the keywords that made them."""
    first, *others = (key for key in ("pattern", "format", "minLength", "maxLength") if key in schema)
    beside = f" beside {' and '.join(others)}" if others else ""
    return SchemaError(path, f"{first}{beside}: {what}")


def plain_string(schema: Schema, path: Path) -> Schema:
    """The same in one of the keywords, which is all that xgrammar's own converter looks at.

    Raises:
        SchemaError: It takes several.
    """
    rules = string_rules(schema, path)
    if not rules.patterns or len(schema.keys() & _KEYWORDS) == 1:
        return schema
    if rules.is_counted or len(rules.patterns) > 1:
        raise string_error(schema, path, "is not supported where arguments are in XML")
    return {"type": "string", "pattern": rules.patterns[0]}
