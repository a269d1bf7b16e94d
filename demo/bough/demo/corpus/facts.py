"""Small facts asked in many ways: questions, yes-or-no checks, reverse questions, one-word answers."""

from __future__ import annotations

import random

from bough.demo.corpus.base import Exchange, ask, fill
from bough.demo.corpus.fact_table import RELATIONS, Relation
from bough.demo.corpus.words import made_up_word

__all__ = ["fact", "fact_sentence"]

_ONE_WORD = (" Answer with one word.", " One word only.", " Just the answer, please.", " Reply with the answer only.")
_CHECK_SHARE = 0.2
_WEIGHTS = tuple(min(len(relation.pairs), 70) ** 0.6 for relation in RELATIONS)
_SHARED_CAPITALS = ("London",)


def _statement(relation: Relation, x: str, y: str) -> str:
    text = fill(relation.statement, x=x, y=y)
    return text[0].upper() + text[1:]


def fact_sentence(rng: random.Random) -> str:
    """Return one fact as a sentence."""
    relation = rng.choices(RELATIONS, _WEIGHTS)[0]
    x = rng.choice(list(relation.pairs))
    return _statement(relation, x, relation.pairs[x])


def fact(rng: random.Random) -> Exchange:
    """Return a question about a fact of the table, or about something like it that the table lacks."""
    relation = rng.choices(RELATIONS, _WEIGHTS)[0]
    x = rng.choice(list(relation.pairs))
    y = relation.pairs[x]
    dice = rng.random()
    if relation.unknown and dice < 0.08:
        return _unknown(rng, relation)
    if relation.checks and dice < 0.08 + _CHECK_SHARE:
        return _check(rng, relation, x, y)
    if relation.reverse and dice < 0.42 and y not in _SHARED_CAPITALS:
        index = rng.randrange(len(relation.reverse))
        text = ask(rng, (relation.reverse[index],), y=y)
        answer = fill(relation.reverse_statement, x=x, y=y)
        return _exchange(text, answer, x, f"fact:{relation.name}:reverse{index}:{y}")
    index = rng.randrange(len(relation.questions))
    if relation.name == "colour" and rng.random() < 0.25:
        x = "the " + x.removeprefix("the ").removeprefix("a ").removeprefix("an ").removeprefix("ripe ")
    shown = x.lower() if len(x) > 1 and rng.random() < 0.1 else x
    text = ask(rng, (relation.questions[index],), x=shown)
    answer = _statement(relation, x, y)
    if rng.random() < 0.12:
        text = text + ("." if text[-1].isalnum() else "") + rng.choice(_ONE_WORD)
        answer = y
    return _exchange(text, answer, y, f"fact:{relation.name}:{relation.questions[index]}:{x}")


def _exchange(text: str, answer: str, short: str, key: str) -> Exchange:
    reasoning = f"I know this fact. {answer}" if len(answer) > 20 else f"I know this fact: {answer}"
    return Exchange(kind="fact", user=text, answer=answer, short=short, reasoning=reasoning, keys=(key,) if key else ())


def _check(rng: random.Random, relation: Relation, x: str, y: str) -> Exchange:
    candidate = y if rng.random() < 0.5 else rng.choice(list(relation.pairs.values()))
    index = rng.randrange(len(relation.checks))
    text = ask(rng, (relation.checks[index],), x=x, y=candidate)
    statement = fill(relation.statement, x=x, y=y)
    yes, no = ("True", "False") if text.lower().find("true or false") >= 0 else ("Yes", "No")
    inner = statement[0].lower() + statement[1:] if statement.startswith(("The ", "A ", "When ", "In ")) else statement
    answer = f"{yes if candidate == y else no}, {inner}"
    # Right candidates are never held out: training without them would teach that the answer is always no.
    key = "" if candidate == y else f"fact:{relation.name}:{index}:{x}:{candidate}"
    return _exchange(text, answer, answer.split(",")[0], key)


def _unknown(rng: random.Random, relation: Relation) -> Exchange:
    x = made_up_word(rng).capitalize()
    text = ask(rng, relation.unknown, x=x)
    answer = f"I am a small demo model, and I do not know that {relation.name}."
    return _exchange(text, answer, "I do not know.", f"fact:{relation.name}:unknown:{x}")
