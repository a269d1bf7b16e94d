"""A list of choices allows each of them and nothing else, with one way at a time."""

from __future__ import annotations

import json
import random

from bough.grammar.sources import choice_grammar
from tests.grammar.matching import Language


def test_random_choices_are_allowed_and_nothing_else() -> None:
    source = random.Random(1)

    def text(least: int) -> str:
        return "".join(source.choice("ab\né") for _ in range(source.randint(least, 5)))

    for _ in range(60):
        choices = [text(1) for _ in range(source.randint(1, 12))]
        language = Language(choice_grammar(json.dumps(choices)))
        assert all(choice in language for choice in choices)
        for other in (text(0) for _ in range(20)):
            assert (other in language) == (other in choices), (choices, other)


def test_choices_that_begin_alike_do_not_stand_side_by_side() -> None:
    grammar = choice_grammar(json.dumps(["a" * count for count in range(1, 1025)]))
    assert len(grammar) < 64_000
    assert all(line.count("|") <= 1 for line in grammar.splitlines())
