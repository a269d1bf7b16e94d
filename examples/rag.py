"""Answers from documents: what was retrieved is read once, and every question branches off behind it.

Shows that documents which questions share are computed once, however many questions there are.
"""

from __future__ import annotations

from bough.lang import State, assistant, function, gen, system, user
from counts import counted

DOCUMENTS = (
    "The user's name is Nadia.",
    "The user lives in Bergen.",
    "The user is 31 years old.",
    "The user's favourite colour is red.",
    "The door code is 3042.",
    "Snow is white, and the sky is blue.",
)
QUESTIONS = ("What is my name?", "Where do I live?", "How old am I?", "What is the door code?")


def retrieve(words: set[str]) -> list[str]:
    """The documents that speak of one of the words."""
    return [text for text in DOCUMENTS if words & set(text.lower().removesuffix(".").split())]


@function
def answer(s: State, documents: list[str], questions: tuple[str, ...]) -> list[str]:
    """What the documents say to each question."""
    s += system(" ".join(documents))
    group = s.fork(len(questions))
    group += lambda number: user(questions[number]) + assistant(gen("answers", max_tokens=32))
    group.join()
    return list(s["answers"])


if __name__ == "__main__":
    found = retrieve({"user", "user's", "door"})
    print(f"read {len(found)} of {len(DOCUMENTS)} documents")
    with counted():
        answers = answer.run(found, QUESTIONS, temperature=0.0).value
    for question, text in zip(QUESTIONS, answers, strict=True):
        print(f"{question} {text}")
