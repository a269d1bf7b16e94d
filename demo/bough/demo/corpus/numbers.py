"""Numbers beyond sums: comparing, ordering, counting, halves and doubles, sums in words."""

from __future__ import annotations

import random
from collections.abc import Callable

from bough.demo.corpus.arithmetic import TIMES
from bough.demo.corpus.base import Exchange, ask, join_words
from bough.demo.corpus.words import NUMBER_WORDS

__all__ = ["number_task"]

_Task = tuple[str, str, str, str]
"""Question, answer, bare answer, reasoning."""


def _below(rng: random.Random, *limits: int) -> int:
    return rng.randrange(rng.choice(limits))


def _compare(rng: random.Random) -> _Task:
    a, b = rng.sample(range(rng.choice((20, 100, 1000))), 2)
    up = rng.random() < 0.6
    word = rng.choice(("bigger", "larger", "greater", "higher", "more") if up else ("smaller", "less", "lower"))
    text = ask(
        rng,
        ("Which is {word}, {a} or {b}?", "What is {word}: {a} or {b}?", "Which number is {word}, {a} or {b}?",
         "What is {word}, {a} or {b}?", "Is {a} or {b} {word}?"),
        word=word, a=a, b=b,
    )  # fmt: skip
    value = max(a, b) if up else min(a, b)
    told = "bigger" if up else "smaller"
    return text, f"{value} is {told} than {a + b - value}.", str(value), f"I compare {a} and {b}."


def _is_bigger(rng: random.Random) -> _Task:
    a, b = rng.sample(range(rng.choice((20, 100, 1000))), 2)
    up = rng.random() < 0.6
    word = rng.choice(("bigger", "larger", "greater", "more") if up else ("smaller", "less"))
    text = ask(rng, ("Is {a} {word} than {b}?", "Is the number {a} {word} than {b}?"), a=a, b=b, word=word)
    yes = "Yes" if (a > b) == up else "No"
    return text, f"{yes}, {a} is {'bigger' if a > b else 'smaller'} than {b}.", yes, f"I compare {a} and {b}."


def _extreme(rng: random.Random) -> _Task:
    numbers = rng.sample(range(rng.choice((20, 100, 1000))), rng.randint(3, 5))
    up = rng.random() < 0.5
    word = rng.choice(("largest", "biggest", "greatest", "highest") if up else ("smallest", "lowest", "least"))
    text = ask(
        rng,
        ("What is the {word} of {items}?", "Which is the {word} of these numbers: {items}?",
         "Find the {word} number: {items}", "Which number is the {word}: {items}?",
         "What is the {word} number here? {items}", "Tell me the {word} of {items}."),
        word=word, items=join_words([str(number) for number in numbers]),
    )  # fmt: skip
    value = max(numbers) if up else min(numbers)
    told = "largest" if up else "smallest"
    return text, f"The {told} number is {value}.", str(value), f"I look for the {told} number."


def _parity(rng: random.Random) -> _Task:
    number = _below(rng, 20, 100, 1000)
    kind, other = ("even", "odd") if number % 2 == 0 else ("odd", "even")
    if rng.random() < 0.4:
        text = ask(rng, ("Is {n} even or odd?", "Is the number {n} odd or even?", "Even or odd: {n}?"), n=number)
        return text, f"{number} is {kind}.", kind, f"The last digit is {number % 10}."
    asked = rng.choice((kind, other))
    text = ask(rng, ("Is {n} an {kind} number?", "Is {n} {kind}?", "Is the number {n} {kind}?"), n=number, kind=asked)
    yes = "Yes" if asked == kind else "No"
    return text, f"{yes}, {number} is {kind}.", yes, f"The last digit is {number % 10}."


def _scale(rng: random.Random) -> _Task:
    how = rng.choice(("double", "half", "square", "triple"))
    if how == "half":
        value = rng.randint(1, 50)
        text = ask(rng, ("What is half of {n}?", "What is the half of {n}?", "Half of {n}?", "Halve {n}."), n=2 * value)
        return text, f"{2 * value} / 2 = {value}", str(value), f"Half of {2 * value} is {value}."
    if how == "square":
        n = rng.randint(1, 12)
        text = ask(rng, ("What is {n} squared?", "What is the square of {n}?", "Square {n}."), n=n)
        return text, f"{n} {TIMES} {n} = {n * n}", str(n * n), f"I multiply {n} by itself."
    factor, n = (2, rng.randint(1, 100)) if how == "double" else (3, rng.randint(1, 33))
    text = ask(
        rng, ("What is {how} {n}?", "{How} {n}.", "What is the {how} of {n}?"), how=how, How=how.capitalize(), n=n
    )
    return text, f"{factor} {TIMES} {n} = {factor * n}", str(factor * n), f"I multiply {n} by {factor}."


def _three(rng: random.Random) -> _Task:
    a, b, c = (rng.randint(1, rng.choice((9, 20))) for _ in range(3))
    text = ask(
        rng, ("What is {a} + {b} + {c}?", "{a} + {b} + {c}", "Add {a}, {b} and {c}.", "What is {a} plus {b} plus {c}?",
              "Calculate {a} + {b} + {c}.", "What is the sum of {a}, {b} and {c}?"), a=a, b=b, c=c
    )  # fmt: skip
    return text, f"{a} + {b} + {c} = {a + b + c}", str(a + b + c), f"{a} + {b} = {a + b}\n{a + b} + {c} = {a + b + c}"


def _in_words(rng: random.Random) -> _Task:
    a, b = rng.randint(0, 20), rng.randint(0, 20)
    sign, shown, value = rng.choice((("plus", "+", a + b), ("minus", "-", a - b), ("times", TIMES, a * b)))
    if sign == "times":
        a, b = min(a, 12), min(b, 12)
        value = a * b
    if sign == "minus" and a < b:
        a, b, value = b, a, b - a
    text = ask(
        rng, ("What is {a} {sign} {b}?", "{a} {sign} {b}?", "How much is {a} {sign} {b}?", "What's {a} {sign} {b}?"),
        a=NUMBER_WORDS[a], sign=sign, b=NUMBER_WORDS[b],
    )  # fmt: skip
    return text, f"{a} {shown} {b} = {value}", str(value), f"{NUMBER_WORDS[a]} is {a} and {NUMBER_WORDS[b]} is {b}."


def _count(rng: random.Random) -> _Task:
    start, size = rng.choice((0, 1, 1, 1, _below(rng, 90))), rng.randint(2, 15)
    end = start + size
    if rng.random() < 0.3:
        text = ask(rng, ("Count down from {b} to {a}.", "Count backwards from {b} to {a}."), a=start, b=end)
        return text, ", ".join(str(n) for n in range(end, start - 1, -1)), "", "I count down one by one."
    if start == 1 and rng.random() < 0.5:
        shown = NUMBER_WORDS[end] if rng.random() < 0.4 else end
        text = ask(rng, ("Count to {b}.", "Please count to {b}.", "Can you count to {b}?", "Count up to {b}."), b=shown)
    else:
        text = ask(rng, ("Count from {a} to {b}.", "List the numbers from {a} to {b}."), a=start, b=end)
    return text, ", ".join(str(n) for n in range(start, end + 1)), "", "I count one by one."


def _sort(rng: random.Random) -> _Task:
    numbers = rng.sample(range(rng.choice((10, 100))), rng.randint(2, 5))
    text = ask(
        rng, ("Sort these numbers: {items}", "Put these numbers in order: {items}", "Sort: {items}",
              "Sort the list {items}.", "Order these numbers from small to large: {items}"),
        items=", ".join(map(str, numbers)),
    )  # fmt: skip
    return text, ", ".join(map(str, sorted(numbers))), "", "I take the smallest number first."


def _neighbour(rng: random.Random) -> _Task:
    number = _below(rng, 20, 100, 1000)
    if rng.random() < 0.5:
        text = ask(
            rng,
            ("What number comes after {n}?", "Which number follows {n}?", "What is the number after {n}?"),
            n=number,
        )
        return text, f"The number after {number} is {number + 1}.", str(number + 1), f"{number} + 1 = {number + 1}"
    text = ask(rng, ("What number comes before {n}?", "What is the number before {n}?"), n=number + 1)
    return text, f"The number before {number + 1} is {number}.", str(number), f"{number + 1} - 1 = {number}"


_TASKS: tuple[tuple[Callable[[random.Random], _Task], float], ...] = (
    (_compare, 3), (_is_bigger, 2), (_extreme, 2), (_parity, 2), (_scale, 2), (_three, 3), (_in_words, 2),
    (_count, 2), (_sort, 3),
    (_neighbour, 1),
)  # fmt: skip


def number_task(rng: random.Random) -> Exchange:
    """Return a small task about numbers that is not a plain sum."""
    task = rng.choices([task for task, _ in _TASKS], [weight for _, weight in _TASKS])[0]
    text, answer, short, reasoning = task(rng)
    return Exchange(
        kind="number", user=text, answer=answer, short=short, reasoning=reasoning, keys=(f"number:{text.lower()}",)
    )
