"""Words as such: spelling, letters, saying something several times, naming a few things of a kind."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from bough.demo.corpus.base import Exchange, ask, join_words
from bough.demo.corpus.words import (
    ANIMALS,
    CITIES,
    COLOURS,
    FIRST_NAMES,
    FOODS,
    HOBBIES,
    JOBS,
    NUMBER_WORDS,
    OBJECTS,
    WEEKDAYS,
    any_word,
    split_words,
)

__all__ = ["word_task"]

_SPELLED = (*OBJECTS, *ANIMALS, *FOODS, *COLOURS)
_MONTHS = split_words("January February March April May June July August September October November December")
_GROUPS: Mapping[str, Sequence[str]] = {
    "animals": ANIMALS[:12], "colours": COLOURS, "colors": COLOURS, "foods": FOODS[:12],
    "hobbies": HOBBIES[:12], "jobs": JOBS[:12],
    "cities": CITIES[:12], "names": FIRST_NAMES[:12],
    "fruits": split_words("apple pear plum lemon cherry grape peach melon banana"),
    "things": OBJECTS[:12], "days": WEEKDAYS, "months": _MONTHS,
    "countries": split_words("France Germany Italy Spain Norway Japan"),
}  # fmt: skip
_WHOLE = {
    "days of the week": WEEKDAYS,
    "months of the year": _MONTHS,
    "months": _MONTHS,
    "weekdays": WEEKDAYS,
    "days": WEEKDAYS,
    "seasons of the year": ("spring", "summer", "autumn", "winter"),
    "seasons": ("spring", "summer", "autumn", "winter"),
    "letters of the alphabet": tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
}


def _spell(rng: random.Random) -> tuple[str, str, str]:
    word = rng.choice(_SPELLED)
    dice = rng.random()
    if dice < 0.1:
        text = ask(
            rng, ("Spell {w} backwards.", "Spell the word {w} backwards.", "How do you spell {w} backwards?"), w=word
        )
        return text, "-".join(word.upper()[::-1]), f"{word} is {'-'.join(word.upper())}."
    if dice < 0.5:
        text = ask(
            rng, ("Spell the word {w}.", "Spell {w}.", "How do you spell {w}?", "Can you spell {w}?",
                  "How is the word {w} spelled?", "Please spell the word {w}."), w=word
        )  # fmt: skip
        return text, f"{'-'.join(word.upper())}", f"I name the letters of {word}."
    if dice < 0.75:
        text = ask(
            rng, ("How many letters are in the word {w}?", "How many letters does {w} have?",
                  "How many letters are in {w}?", "Count the letters of {w}."), w=word
        )  # fmt: skip
        return text, f"The word {word} has {len(word)} letters.", f"{word} is {'-'.join(word.upper())}."
    place, index = rng.choice((("first", 0), ("last", -1)))
    text = ask(
        rng, ("What is the {place} letter of {w}?", "Which is the {place} letter of the word {w}?",
              "What letter does {w} {verb} with?", "Tell me the {place} letter of {w}."),
        w=word, place=place, verb="start" if place == "first" else "end",
    )  # fmt: skip
    return text, f"The {place} letter of {word} is {word[index].upper()}.", f"{word} is {'-'.join(word.upper())}."


def _say_again(rng: random.Random) -> tuple[str, str, str]:
    word, times = rng.choice((any_word(rng), "hello", "yes", "no", "thank you")), rng.randint(2, 6)
    shown = {2: "twice", 3: "three times"}.get(times, f"{NUMBER_WORDS[times]} times")
    if rng.random() < 0.3:
        shown = f"{times} times"
    text = ask(
        rng, ("Say {w} {times}.", "Repeat the word {w} {times}.", "Write {w} {times}.", "Say the word {w} {times}.",
              "Write the word \"{w}\" {times}.", "Repeat {w} {times}."), w=word, times=shown
    )  # fmt: skip
    return text, ", ".join([word] * times), f"I write it {times} times."


def _name_some(rng: random.Random) -> tuple[str, str, str]:
    if rng.random() < 0.35:
        group = rng.choice(list(_WHOLE))
        text = ask(
            rng, ("List the {g}.", "Name the {g}.", "What are the {g}?", "Tell me the {g}.", "Name all {g}.",
                  "Can you list the {g}?"), g=group
        )  # fmt: skip
        return text, f"The {group} are {join_words(_WHOLE[group])}.", "I know this list."
    group, count = rng.choice(list(_GROUPS)), rng.randint(1, 6)
    shown = str(count) if rng.random() < 0.3 else NUMBER_WORDS[count]
    picked = _GROUPS[group][:count] if rng.random() < 0.9 else rng.sample(_GROUPS[group], count)
    if count == 1:
        shown, group = rng.choice(("a", "one")), group[:-3] + "y" if group.endswith("ies") else group[:-1]
        shown = "an" if shown == "a" and group[0] in "aeiou" else shown
    text = ask(
        rng, ("Name {n} {g}.", "List {n} {g}.", "Tell me {n} {g}.", "Give me {n} {g}.", "Can you name {n} {g}?",
              "Please name {n} {g}.", "Give me a list of {n} {g}."), n=shown, g=group
    )  # fmt: skip
    return text, ", ".join(picked), f"I choose {count}."


def word_task(rng: random.Random) -> Exchange:
    """Return a small task about words and what they name."""
    text, answer, reasoning = rng.choices((_spell, _say_again, _name_some), (4, 2, 3))[0](rng)
    return Exchange(kind="word", user=text, answer=answer, reasoning=reasoning)
