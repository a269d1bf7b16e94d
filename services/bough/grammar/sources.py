"""What a client sends as a grammar, checked and turned into what xgrammar compiles exactly."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import groupby
from typing import Any

from bough.common.sampling import GrammarKind
from bough.grammar.automaton import AutomatonError, TooManyStatesError, right_linear_rules
from bough.grammar.ebnf import EMPTY, Expr, Literal, Ref, alt, print_grammar, seq
from bough.grammar.json_text import MAX_WHITESPACE
from bough.grammar.pattern import PatternError, pattern_text
from bough.grammar.schema_check import MAX_DEPTH, SchemaError, parse_json
from bough.grammar.schema_grammar import schema_grammar, schema_value_grammar
from bough.grammar.schema_plain import plain_schema

MAX_CHOICES = 1024
MAX_TAG_NODES = 10_000
REVISION = "6"
"""Of the grammars that are made here; part of the key, so that an older compiled form is not taken for a newer one."""


class Target(Enum):
    """What xgrammar is given."""

    EBNF = 1
    STRUCTURAL_TAG = 2


@dataclass(frozen=True, slots=True)
class Prepared:
    """A text for xgrammar."""

    target: Target
    text: str


def prepare(kind: GrammarKind, text: str) -> Prepared:
    """Check a source and turn it into what xgrammar compiles.

    Raises:
        SchemaError: It is wrong, has something that is not enforced, or goes beyond a limit.
    """
    match kind:
        case GrammarKind.JSON_SCHEMA:
            return Prepared(Target.EBNF, schema_grammar(text))
        case GrammarKind.JSON_OBJECT:
            return Prepared(Target.EBNF, schema_value_grammar({"type": "object"}))
        case GrammarKind.REGEX:
            return Prepared(Target.EBNF, regex_grammar(text))
        case GrammarKind.CHOICE:
            return Prepared(Target.EBNF, choice_grammar(text))
        case GrammarKind.STRUCTURAL_TAG:
            return Prepared(Target.STRUCTURAL_TAG, structural_tag(text))
    return Prepared(Target.EBNF, text)


def choice_grammar(text: str) -> str:
    """The EBNF of a JSON list of strings, one of which is the output."""
    choices = parse_json(text)
    if not isinstance(choices, list) or not all(isinstance(choice, str) for choice in choices):
        raise SchemaError((), f"must be a list of strings, got {text[:40]}")
    if not 1 <= len(choices) <= MAX_CHOICES:
        raise SchemaError((), f"has {len(choices)} strings; 1 to {MAX_CHOICES} are accepted")
    for index, choice in enumerate(choices):
        if not choice or "\0" in choice:
            what = "has a NUL character" if choice else "must not be empty"
            raise SchemaError((str(index),), what)
    grammar = print_grammar(_tree(choices), "root")
    assert grammar is not None
    return grammar


def _tree(texts: Sequence[str]) -> dict[str, Expr]:
    """Rules of which each goes on in one way only, where texts begin alike; side by side they would be many ways."""
    rules: dict[str, Expr] = {}
    queue = [("root", sorted(set(texts)))]
    for name, rests in queue:  # grows while it is walked
        options: list[Expr] = [EMPTY] if rests[0] == "" else []
        for _, group in groupby((rest for rest in rests if rest), key=lambda rest: rest[0]):
            alike = list(group)
            beginning = _common_beginning(alike[0], alike[-1])  # in order: those between begin so too
            if len(alike) == 1:
                options.append(Literal(beginning))
                continue
            queue.append((f"root_{len(queue)}", [rest[len(beginning) :] for rest in alike]))
            options.append(seq(Literal(beginning), Ref(queue[-1][0])))
        rules[name] = alt(*options)
    return rules


def _common_beginning(one: str, other: str) -> str:
    length = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
    return one[:length]


def regex_grammar(pattern: str) -> str:
    """The EBNF of the texts that a regular expression matches as a whole.

    An automaton never has two ways at once. An expression that takes too many states for one is left to the matcher,
    whose ways may be so many that the compiler refuses it.
    """
    try:
        expr = pattern_text(pattern)
        rules: dict[str, Expr] = right_linear_rules("root", expr)
    except TooManyStatesError:
        rules = {"root": expr}
    except (PatternError, AutomatonError) as error:
        raise SchemaError((), str(error)) from None
    grammar = print_grammar(rules, "root")
    if grammar is None:
        raise SchemaError((), "cannot be satisfied: no text matches it")
    return grammar


def structural_tag(text: str) -> str:
    """Structural tags whose JSON schemas are checked and turned into grammars."""
    parsed = parse_json(text)
    if not isinstance(parsed, dict):
        raise SchemaError((), f"must be an object, got {text[:40]}")
    walker = _TagWalker()
    converted = walker.convert(parsed, ())
    return json.dumps(converted, ensure_ascii=False)


class _TagWalker:
    def __init__(self) -> None:
        self._num_nodes = 0

    def convert(self, node: Any, path: tuple[str, ...]) -> Any:
        self._num_nodes += 1
        if self._num_nodes > MAX_TAG_NODES:
            raise SchemaError((), f"has more than {MAX_TAG_NODES} parts")
        if len(path) > 2 * MAX_DEPTH:
            raise SchemaError(path[:8], f"is nested too deeply; at most {MAX_DEPTH} levels are accepted")
        if isinstance(node, list):
            return [self.convert(item, (*path, str(index))) for index, item in enumerate(node)]
        if not isinstance(node, dict):
            return node
        if node.get("type") == "json_schema" and "json_schema" in node:
            return _schema_format(node, path)
        if node.get("type") == "regex" and isinstance(node.get("pattern"), str):
            return _regex_format(node, path)
        return {key: self.convert(value, (*path, key)) for key, value in node.items()}


def _regex_format(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    if node.get("excludes"):
        raise SchemaError(path, "excludes is not supported beside pattern")
    try:
        return {"type": "grammar", "grammar": regex_grammar(node["pattern"])}
    except SchemaError as error:
        raise SchemaError((*path, "pattern"), str(error)) from None


def _schema_format(node: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    for key in ("any_order", "excludes"):
        if node.get(key):
            raise SchemaError(path, f"{key} is not supported beside json_schema")
    try:
        grammar = schema_value_grammar(node["json_schema"])
    except SchemaError as error:
        raise SchemaError((*path, "json_schema"), str(error)) from None
    if node.get("style", "json") == "json":
        return {"type": "grammar", "grammar": grammar}
    # Arguments in XML have no grammar of ours: xgrammar makes it of the schema in its simplest words.
    return {**node, "json_schema": plain_schema(node["json_schema"]), "max_whitespace_cnt": MAX_WHITESPACE}
