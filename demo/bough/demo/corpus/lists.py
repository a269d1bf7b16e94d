"""Repeating and reversing lists, picking from them, and saying sentences back."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence

from bough.demo.corpus.base import Exchange, ask, join_words
from bough.demo.corpus.facts import fact_sentence
from bough.demo.corpus.words import FIRST_NAMES, NUMBER_WORDS, any_city, any_first_name, any_word

__all__ = ["echo", "list_task"]

_REVERSE = (
    "Reverse this list: {items}", "Reverse the list: {items}", "Say this list backwards: {items}",
    "Write these words in reverse order: {items}", "Give me these in reverse order: {items}", "Reverse: {items}",
    "Put this list in reverse order: {items}", "Turn this list around: {items}", "List these backwards: {items}",
    "Please reverse these words: {items}", "Can you reverse this list? {items}",
    "What is this list in reverse? {items}",
    "Reverse the order of these items: {items}", "Write the list backwards: {items}",
)  # fmt: skip
_REPEAT = (
    "Repeat this list: {items}", "Repeat the list: {items}", "Repeat these words: {items}", "Say these words: {items}",
    "Write this list again: {items}", "Copy this list: {items}", "Give me this list again: {items}", "Repeat: {items}",
    "Please repeat the following list: {items}", "Can you repeat this list? {items}",
    "Say this list back to me: {items}",
    "Repeat these items in the same order: {items}", "Write these words in the same order: {items}",
)  # fmt: skip
_PICK = {
    "first": ("What is the first item of this list? {items}", "What is the first word here? {items}",
              "Which item comes first in this list? {items}", "Tell me the first item: {items}"),
    "last": ("What is the last item of this list? {items}", "What is the last word here? {items}",
             "Which item comes last in this list? {items}", "Tell me the last item: {items}"),
    "second": ("What is the second item of this list? {items}", "Tell me the second item: {items}"),
    "third": ("What is the third item of this list? {items}", "Tell me the third item: {items}"),
}  # fmt: skip
_COUNT = (
    "How many items are in this list? {items}", "How many words are there? {items}", "Count the items: {items}",
    "Count these words: {items}",
)  # fmt: skip
_ITEMS: Mapping[str, Callable[[random.Random], str]] = {
    "word": any_word,
    "name": any_first_name,
    "city": any_city,
    "number": lambda rng: str(rng.randrange(rng.choice((10, 100, 1000)))),
}


def _items(rng: random.Random) -> list[str]:
    make = _ITEMS[rng.choices(("word", "name", "city", "number"), (6, 2, 1, 2))[0]]
    wanted = rng.randint(2, 8)
    items: list[str] = []
    while len(items) < wanted:
        item = make(rng)
        if item not in items:
            items.append(item)
    return items


def _write(items: Sequence[str], style: str) -> str:
    """Return items in one of the styles `comma`, `and`, `space`, `lines` or `json`."""
    if style == "and":
        return join_words(items)
    if style == "space":
        return " ".join(items)
    if style == "lines":
        return "\n" + "\n".join(f"- {item}" for item in items)
    if style == "json":
        return json.dumps([int(item) if item.isdigit() else item for item in items])
    return ", ".join(items)


def list_task(rng: random.Random) -> Exchange:
    """Return a list to reverse, repeat, count or pick from."""
    items = _items(rng)
    style = rng.choices(("comma", "and", "space", "lines", "json"), (60, 12, 8, 8, 12))[0]
    if style == "space" and any(" " in item for item in items):
        style = "comma"
    shown = _write(items, style)
    if style in ("comma", "and") and rng.random() < 0.2:
        shown += "."
    task = rng.choices(("reverse", "repeat", "pick", "count"), (50, 30, 14, 6))[0]
    if task == "pick":
        return _pick(rng, items, shown)
    if task == "count":
        text = ask(rng, _COUNT, items=shown)
        answer = f"There are {NUMBER_WORDS[len(items)]} items: {', '.join(items)}."
        reasoning = "I count: " + ", ".join(f"{number} {item}" for number, item in enumerate(items, 1))
        return Exchange(kind="list", user=text, answer=answer, reasoning=reasoning, keys=_keys(items))
    wanted = items[::-1] if task == "reverse" else items
    text = ask(rng, _REVERSE if task == "reverse" else _REPEAT, items=shown)
    answer = _write(wanted, style).lstrip("\n")
    reasoning = "I go from the last item to the first." if task == "reverse" else "I say the items in the same order."
    return Exchange(kind=task, user=text, answer=answer, reasoning=reasoning, keys=_keys(items))


def _keys(items: Sequence[str]) -> tuple[str, ...]:
    return ("list:" + "|".join(items),)


def _pick(rng: random.Random, items: Sequence[str], shown: str) -> Exchange:
    place = rng.choice(("first", "last", "second", "third") if len(items) > 2 else ("first", "last"))
    item = items[{"first": 0, "second": 1, "third": 2, "last": -1}[place]]
    text = ask(rng, _PICK[place], items=shown)
    answer = f"The {place} item is {item}."
    reasoning = f"I look for the {place} item."
    return Exchange(kind="list", user=text, answer=answer, reasoning=reasoning, keys=_keys(items))


_ECHO = (
    "Repeat after me: {text}", "Say exactly this: {text}", "Repeat this sentence: {text}", "Write this down: {text}",
    "Please repeat: {text}", "Say: {text}", "Copy this text: {text}", "Say \"{text}\"", "Say '{text}'",
    "Repeat '{text}'", "Reply with '{text}'.", "Repeat \"{text}\"",
    "Say \"{text}\" and nothing else.", "Reply with \"{text}\"", "Answer with exactly this: {text}",
    "Repeat: \"{text}\"",
)  # fmt: skip


def echo(rng: random.Random) -> Exchange:
    """Return a sentence to say back word for word."""
    dice = rng.random()
    if dice < 0.08:
        sentence = rng.choice(("this is a test", "that is a {w}", "here is the {w}", "it is a {w}", "the {w} is ready"))
        sentence = sentence.replace("{w}", any_word(rng))
        answer = sentence[0].upper() + sentence[1:] + "."
        return _echoed(ask(rng, ("Say {text}.", "Please say {text}.", "Just say {text}."), text=sentence), answer)
    if dice < 0.3:
        text = fact_sentence(rng)
    elif dice < 0.4:
        text = rng.choice(
            ("hello world", "Hello, world!", "yes", "no", "ok", "OK", "hello", "good morning", "test", "done")
        )
    elif dice < 0.7:
        words = [any_word(rng) for _ in range(rng.randint(3, 12))]
        text = " ".join(words).capitalize() + rng.choice((".", "!", "", "?"))
    else:
        name, thing, other = rng.choice(FIRST_NAMES), any_word(rng), any_word(rng)
        verb = rng.choice(("sees", "likes", "wants", "paints", "finds", "loses"))
        place = any_city(rng)
        text = f"{name} {verb} the {thing} and the {other} in {place}."
    question = ask(rng, _ECHO, text=text)
    return _echoed(question, text)


def _echoed(question: str, text: str) -> Exchange:
    return Exchange(
        kind="repeat", user=question, answer=text, reasoning="I repeat the text exactly.", keys=(f"echo:{text}",)
    )
