"""A regular expression by itself: the output is what it matches as a whole, in every dialect."""

from __future__ import annotations

import itertools
import random
import re

import pytest

from bough.grammar.schema_check import SchemaError
from bough.grammar.sources import regex_grammar
from tests.grammar.matching import Language


@pytest.mark.parametrize(
    ("pattern", "good", "bad"),
    [
        ("(0|[1-9][0-9]*)(e[0-9]+)?", ["0", "12e5"], ["01", "e1", ""]),
        ("^a|b$", ["a", "b"], ["ab"]),
        ("a.b", ["aéb", "a b"], ["a\nb", "a\rb"]),
        (r"\S+", ["中é"], ["a b", "a\u3000"]),
        (r"[\s\S]{2}", ["\n\x00", "é😀"], ["a"]),
        (r"(?P<year>\d{4})-(?<month>\d\d)", ["2024-02"], ["2024-2"]),
        ("{0}]}".replace("{0}", r"\{a"), ["{a]}"], ["{a"]),
        ("()", [""], ["a"]),
        (".{0,600}x", ["x", "a" * 600 + "x"], ["a" * 601 + "x"]),  # too many states for an automaton
        ("(a{0,30}b){1,40}", ["b" * 40, "aab"], ["a", "b" * 41]),
    ],
)
def test_the_whole_output_is_matched(pattern: str, good: list[str], bad: list[str]) -> None:
    language = Language(regex_grammar(pattern))
    assert [text for text in good if text not in language] == []
    assert [text for text in bad if text in language] == []


def test_random_expressions_match_what_python_matches() -> None:
    source = random.Random(5)

    def expression(depth: int) -> str:
        kind = source.random()
        if depth == 0 or kind < 0.3:
            return source.choice(["a", "b", "[ab]", "[^a]", "c", "ab"])
        if kind < 0.55:
            return expression(depth - 1) + expression(depth - 1)
        if kind < 0.75:
            return f"({expression(depth - 1)}|{expression(depth - 1)})"
        return f"({expression(depth - 1)})" + source.choice(["*", "+", "?", "{2}", "{1,2}", "{0,3}", "{2,}"])

    texts = ["".join(letters) for size in range(5) for letters in itertools.product("abc", repeat=size)]
    for _ in range(150):
        pattern = expression(4)
        language = Language(regex_grammar(pattern))
        for text in source.sample(texts, 40):
            assert (text in language) == bool(re.fullmatch(pattern, text)), (pattern, text)


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        (r"\Aabc\Z", r"at character 2: \\A is not supported"),
        (r"\bfoo", r"\\b is not supported"),
        (r"(a)\1", r"\\1 is not supported"),
        (r"\p{L}", r"\\p is not supported"),
        ("(?=a)b", "groups other than"),
        ("(?i)a", "groups other than"),
        ("a^b", r"'\^' is supported only at the ends"),
        ("(^a)", r"'\^' is supported only at the ends"),
        ("a$b", r"'\$' is supported only at the end"),
        ("a**", "a count follows a count"),
        ("(a", "a group is not closed"),
        ("a)", r"'\)' has no counterpart"),
        ("[[:alpha:]]", r"'\[' in a class must be written"),
        ("(.{0,100}){0,100}x", "has too many ways through its counts"),
        ("(" * 100 + "a" + ")" * 100, "groups are nested deeper than 64"),
        (r"[^\s\S]", "cannot be satisfied: no text matches it"),
    ],
)
def test_what_is_not_enforced_is_refused_by_name(pattern: str, says: str) -> None:
    with pytest.raises(SchemaError, match=says):
        regex_grammar(pattern)
