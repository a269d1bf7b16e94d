"""What the user says about themselves (and others) early in a chat, and questions about it later on."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bough.demo.corpus.base import Exchange, Split, ask, fill, is_held_out, with_article
from bough.demo.corpus.words import (
    ANIMALS,
    COLOURS,
    FOODS,
    HOBBIES,
    JOBS,
    any_city,
    any_first_name,
    any_word,
    split_words,
)

__all__ = ["Memory", "Trait"]

_MONTHS = split_words("January February March April May June July August September October November December")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trait:
    """Something a user can tell: how it is drawn, told, acknowledged, asked for and answered."""

    name: str
    value: Callable[[random.Random], str]
    tells: tuple[str, ...]
    clause: str
    """The fact as part of a longer sentence, so that several can be told at once."""
    reply: str
    asks: tuple[str, ...]
    answer: str
    missing: str
    """What the answer calls the thing when it was never told."""


_TRAITS: tuple[Trait, ...] = (
    Trait(
        name="name", value=any_first_name,
        tells=("My name is {v}.", "I'm {v}.", "I am {v}.", "Hi, my name is {v}.", "Hello, I am {v}!", "Call me {v}.",
               "You can call me {v}.", "Hello! My name is {v}.", "People call me {v}.", "Hi, I'm {v}.",
               "{v} is my name."),
        clause="my name is {v}", reply="Nice to meet you, {v}!",
        asks=("What is my name?", "What's my name?", "Do you remember my name?", "Who am I?", "Tell me my name.",
              "What is my name again?", "Can you tell me my name?", "Do you know my name?",
              "What did I say my name was?",
              "How am I called?", "What was my name?"),
        answer="Your name is {v}.", missing="your name",
    ),
    Trait(
        name="colour", value=lambda rng: rng.choice(COLOURS),
        tells=("My favourite colour is {v}.", "My favorite color is {v}.", "The colour I like best is {v}.",
               "I like the colour {v} best.", "I love the colour {v}."),
        clause="my favourite colour is {v}", reply="{V} is a nice colour.",
        asks=("What is my favourite colour?", "What's my favorite color?", "Which colour do I like best?",
              "Do you remember my favourite colour?", "Tell me my favourite colour.", "What colour do I like?"),
        answer="Your favourite colour is {v}.", missing="your favourite colour",
    ),
    Trait(
        name="city", value=any_city,
        tells=("I live in {v}.", "I am from {v}.", "My home is in {v}.", "I live in the city of {v}.",
            "My city is {v}.",
               "I come from {v}."),
        clause="I live in {v}", reply="{v} sounds like a nice place.",
        asks=("Where do I live?", "Which city do I live in?", "What city am I from?", "Do you remember where I live?",
              "Where am I from?", "Tell me where I live.", "In which city is my home?"),
        answer="You live in {v}.", missing="where you live",
    ),
    Trait(
        name="age", value=lambda rng: str(rng.randint(7, 99)),
        tells=("I am {v} years old.", "I'm {v} years old.", "My age is {v}.", "I turned {v} this year."),
        clause="I am {v} years old", reply="{v} is a good age.",
        asks=("How old am I?", "What is my age?", "Do you remember my age?", "Do you know how old I am?",
            "Tell me my age."),
        answer="You are {v} years old.", missing="your age",
    ),
    Trait(
        name="job", value=lambda rng: with_article(rng.choice(JOBS)),
        tells=("I am {v}.", "I work as {v}.", "My job is to be {v}.", "I'm {v} by profession."),
        clause="I work as {v}", reply="It must be interesting to be {v}.",
        asks=("What is my job?", "What do I do for work?", "What do I work as?", "Do you remember my job?",
              "What's my profession?", "Tell me my job."),
        answer="You work as {v}.", missing="your job",
    ),
    Trait(
        name="pet", value=lambda rng: f"{with_article(rng.choice(ANIMALS))} called {any_first_name(rng)}",
        tells=("I have {v}.", "My pet is {v}.", "At home I have {v}.", "I own {v}."),
        clause="I have {v}", reply="{V}, how lovely!",
        asks=("What pet do I have?", "Do you remember my pet?", "Which pet do I have?", "Tell me about my pet.",
              "What is my pet called?", "What's the name of my pet?", "What is the name of my pet?"),
        answer="You have {v}.", missing="your pet",
    ),
    Trait(
        name="food", value=lambda rng: rng.choice(FOODS),
        tells=("My favourite food is {v}.", "My favorite food is {v}.", "The food I like best is {v}.",
               "I love to eat {v}.", "I like {v} more than any other food."),
        clause="my favourite food is {v}", reply="{V} is tasty.",
        asks=("What is my favourite food?", "What's my favorite food?", "Which food do I like best?",
              "What do I like to eat?", "Do you remember my favourite food?"),
        answer="Your favourite food is {v}.", missing="your favourite food",
    ),
    Trait(
        name="hobby", value=lambda rng: rng.choice(HOBBIES),
        tells=("My hobby is {v}.", "I love {v}.", "In my free time I enjoy {v}.", "I like {v} a lot.",
               "My favourite hobby is {v}."),
        clause="my hobby is {v}", reply="{V} is a fine hobby.",
        asks=("What is my hobby?", "What's my hobby?", "What do I like to do?", "What do I do in my free time?",
              "Do you remember my hobby?", "Which hobby do I have?"),
        answer="Your hobby is {v}.", missing="your hobby",
    ),
    Trait(
        name="animal", value=lambda rng: rng.choice(ANIMALS),
        tells=("My favourite animal is the {v}.", "My favorite animal is the {v}.",
            "The animal I like best is the {v}."),
        clause="my favourite animal is the {v}", reply="The {v} is a wonderful animal.",
        asks=("What is my favourite animal?", "What's my favorite animal?", "Which animal do I like best?",
              "Do you remember my favourite animal?"),
        answer="Your favourite animal is the {v}.", missing="your favourite animal",
    ),
    Trait(
        name="number", value=lambda rng: str(rng.randrange(rng.choice((10, 100, 1000)))),
        tells=("My favourite number is {v}.", "My lucky number is {v}.", "My favorite number is {v}."),
        clause="my favourite number is {v}", reply="{v} is a good number.",
        asks=("What is my favourite number?", "What's my lucky number?", "Which number do I like best?",
              "Do you remember my favourite number?"),
        answer="Your favourite number is {v}.", missing="your favourite number",
    ),
    Trait(
        name="word", value=any_word,
        tells=("Remember the word {v}.", "Please remember this word: {v}", "The secret word is {v}.",
               "Keep this word in mind: {v}", "The password is {v}."),
        clause="the secret word is {v}", reply="I will remember the word {v}.",
        asks=("What is the secret word?", "Which word should you remember?", "What was the word?",
            "Tell me the secret word.",
              "What word did I tell you?", "What is the password?", "Which word did I ask you to remember?"),
        answer="The word is {v}.", missing="a word to remember",
    ),
    Trait(
        name="code", value=lambda rng: "".join(str(rng.randrange(10)) for _ in range(rng.randint(3, 6))),
        tells=("The code is {v}.", "Remember the code {v}.", "Please remember this code: {v}", "The door code is {v}.",
               "My code is {v}."),
        clause="the code is {v}", reply="I will remember the code {v}.",
        asks=("What is the code?", "What was the code?", "Which code did I tell you?", "Tell me the code.",
              "Do you remember the code?", "What is the door code?"),
        answer="The code is {v}.", missing="a code",
    ),
    Trait(
        name="month", value=lambda rng: rng.choice(_MONTHS),
        tells=("My birthday is in {v}.", "I was born in {v}.", "I have my birthday in {v}."),
        clause="my birthday is in {v}", reply="{v} is a nice month for a birthday.",
        asks=("When is my birthday?", "In which month is my birthday?", "Which month was I born in?",
              "Do you remember my birthday?"),
        answer="Your birthday is in {v}.", missing="when your birthday is",
    ),
    Trait(
        name="brother", value=any_first_name,
        tells=("My brother is called {v}.", "My brother's name is {v}.", "I have a brother called {v}."),
        clause="my brother is called {v}", reply="Say hello to {v} from me!",
        asks=("What is my brother's name?", "What is my brother called?", "Who is my brother?",
              "Do you remember my brother's name?"),
        answer="Your brother is called {v}.", missing="your brother's name",
    ),
    Trait(
        name="friend", value=any_first_name,
        tells=("My best friend is called {v}.", "My best friend is {v}.", "I have a friend called {v}."),
        clause="my best friend is {v}", reply="{v} must be a good friend.",
        asks=("Who is my best friend?", "What is my friend called?", "What is the name of my best friend?",
              "Do you remember my friend's name?"),
        answer="Your friend is called {v}.", missing="your friend's name",
    ),
)  # fmt: skip
_WEIGHTS = (6, 2, 3, 2, 2, 2, 2, 2, 1, 1, 2, 2, 1, 1, 1)
_UNITE = ("{a} and {b}.", "{a}, and {b}.", "Hi! {a} and {b}.", "{a}. Also, {b}.")
_ABOUT_ME = ("What do you know about me?", "What have I told you about me?", "Tell me what you know about me.")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


class Memory:
    """What one chat's user has told so far; yields exchanges that tell more or ask for it."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split
        self._told: dict[str, str] = {}

    @property
    def told(self) -> Mapping[str, str]:
        """What was told so far: trait to value."""
        return dict(self._told)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was told yet."""
        return not self._told

    def _new_traits(self, wanted: int) -> list[Trait]:
        fresh: list[Trait] = []
        for trait in self._rng.choices(_TRAITS, _WEIGHTS, k=12):
            if trait.name not in self._told and trait not in fresh and len(fresh) < wanted:
                fresh.append(trait)
        return fresh

    def _value(self, trait: Trait) -> str:
        """Draw a value on the wanted side of the split."""
        for _ in range(500):
            value = trait.value(self._rng)
            if is_held_out(f"recall:{trait.name}:{value}") == (self._split == "dev"):
                return value
        return trait.value(self._rng) if self._split == "dev" else value

    def tell(self) -> Exchange | None:
        """Return an exchange in which the user tells one or two new things; None when all were told."""
        rng = self._rng
        traits = self._new_traits(2 if rng.random() < 0.35 else 1)
        if not traits:
            return None
        values = [self._value(trait) for trait in traits]
        self._told.update(zip((trait.name for trait in traits), values, strict=True))
        if len(traits) == 1:
            text = ask(rng, traits[0].tells, v=values[0])
        else:
            clauses = [fill(trait.clause, v=value) for trait, value in zip(traits, values, strict=True)]
            text = fill(rng.choice(_UNITE), a=_capital(clauses[0]), b=clauses[1])
        replies = [fill(trait.reply, v=v, V=_capital(v)) for trait, v in zip(traits, values, strict=True)]
        reasoning = "The user tells me something. I will remember it."
        return Exchange(kind="tell", user=text, answer=" ".join(replies), reasoning=reasoning)

    def recall(self) -> Exchange:
        """Return a question about something told before or, at times, about something that never was."""
        rng = self._rng
        if len(self._told) > 1 and rng.random() < 0.1:
            return self._two()
        if self._told and rng.random() < 0.85:
            name = rng.choice(list(self._told))
            trait = next(trait for trait in _TRAITS if trait.name == name)
            answer = fill(trait.answer, v=self._told[name])
            if len(self._told) > 1 and rng.random() < 0.08:
                return self._everything()
            return Exchange(
                kind="recall", user=ask(rng, trait.asks), answer=answer, reasoning=f"The user told me this. {answer}"
            )
        trait = rng.choices([trait for trait in _TRAITS if trait.name not in self._told] or _TRAITS[-1:])[0]
        if trait.name in self._told:
            return self._everything()
        return Exchange(
            kind="recall",
            user=ask(rng, trait.asks),
            answer=f"You have not told me {trait.missing} yet.",
            reasoning="The user has not told me this.",
        )

    def _two(self) -> Exchange:
        """Return a question for two things at once."""
        first, second = self._rng.sample([trait for trait in _TRAITS if trait.name in self._told], 2)
        asked = self._rng.choice(first.asks[:2]).rstrip("?"), self._rng.choice(second.asks[:2])
        answers = [fill(trait.answer, v=self._told[trait.name]) for trait in (first, second)]
        text = ask(self._rng, ("{a} and {b}",), a=asked[0], b=asked[1][0].lower() + asked[1][1:])
        return Exchange(kind="recall", user=text, answer=" ".join(answers), reasoning="The user asks for two things.")

    def _everything(self) -> Exchange:
        answers = [
            fill(trait.answer, v=self._told[name]) for name in self._told for trait in _TRAITS if trait.name == name
        ]
        return Exchange(
            kind="recall",
            user=ask(self._rng, _ABOUT_ME),
            answer=" ".join(answers),
            reasoning="I say what the user told me, in that order.",
        )

    def system_text(self, traits: Sequence[str] = ("name", "city", "age")) -> str:
        """Return a system sentence that tells one trait of the user, and remember it."""
        name = self._rng.choice(traits)
        trait = next(trait for trait in _TRAITS if trait.name == name)
        self._told[name] = self._value(trait)
        return {
            "name": f"The user's name is {self._told[name]}.",
            "city": f"The user lives in {self._told[name]}.",
            "age": f"The user is {self._told[name]} years old.",
        }[name]
