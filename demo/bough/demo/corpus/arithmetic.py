"""Arithmetic: direct answers for what fits in one step, written-out column work where the chat allows thinking."""

from __future__ import annotations

import random
from collections.abc import Sequence

from bough.demo.corpus.base import Exchange, ask
from bough.demo.corpus.words import PRODUCTS, any_first_name

__all__ = ["TIMES", "direct", "think_add", "think_multiply", "think_subtract", "thinking", "word_problem"]

TIMES = "\N{MULTIPLICATION SIGN}"
"""How a product is written in answers."""
_PLACES = ("ones", "tens", "hundreds", "thousands")
_SYMBOLS = {"+": ("+", "+", "+", "plus"), "-": ("-", "-", "-", "minus"), "*": ("*", TIMES, "x", "times")}
_QUESTIONS = (
    "What is {sum}?", "What is {sum}?", "{sum}", "{sum} = ?", "{sum}=", "How much is {sum}?", "Calculate {sum}.",
    "Compute {sum}.", "Can you tell me what {sum} is?", "Please work out {sum}.", "What does {sum} equal?",
    "Tell me the result of {sum}.", "Solve {sum}.", "I need the answer to {sum}.", "What do I get for {sum}?",
    "What's {sum}?", "Could you calculate {sum} for me?", "Give me the value of {sum}.", "What is the result of {sum}?",
    "Do you know what {sum} is?",
)  # fmt: skip
_SUM_QUESTIONS = (
    "Add {a} and {b}.", "What is the sum of {a} and {b}?", "What do you get when you add {a} to {b}?",
    "Please add {a} and {b}.",
)  # fmt: skip
_DIFFERENCE_QUESTIONS = (
    "Subtract {b} from {a}.", "What is {a} take away {b}?", "What is the difference between {a} and {b}?",
    "How much is left when I take {b} from {a}?",
)  # fmt: skip
_PRODUCT_QUESTIONS = ("Multiply {a} by {b}.", "What is the product of {a} and {b}?", "Please multiply {a} and {b}.")
_JUST_NUMBER = (
    " Answer with the number only.", " Just the number.", " Reply with only the number.",
    " Only give the number, please.",
)  # fmt: skip


def _question(rng: random.Random, a: int, b: int, symbol: str) -> str:
    spoken = {"+": _SUM_QUESTIONS, "-": _DIFFERENCE_QUESTIONS, "*": _PRODUCT_QUESTIONS}.get(symbol, ())
    if spoken and rng.random() < 0.25:
        return ask(rng, spoken, a=a, b=b)
    sign = rng.choice(_SYMBOLS.get(symbol, (symbol,)))
    tight = rng.random() < 0.2 and not sign.isalpha()
    return ask(rng, _QUESTIONS, sum=f"{a}{sign}{b}" if tight else f"{a} {sign} {b}")


def _key(a: int, b: int, symbol: str) -> tuple[str, ...]:
    """Return the pair's key; single-digit sums and the small tables have none: they are facts to know."""
    if (symbol == "*" and max(a, b) <= 12) or (symbol in "+-" and max(a, b) <= 20):
        return ()
    low, high = (min(a, b), max(a, b)) if symbol in "+*" else (a, b)
    return (f"arithmetic:{low}{symbol}{high}",)


def _answer(rng: random.Random, text: str, a: int, b: int, symbol: str, value: int) -> tuple[str, str]:
    """Return question and answer, at times with the wish for the bare number."""
    if rng.random() < 0.12:
        stop = "." if text[-1].isalnum() else ""
        return f"{text}{stop}{rng.choice(_JUST_NUMBER)}", str(value)
    shown = {"*": TIMES}.get(symbol, symbol)
    return text, f"{a} {shown} {b} = {value}"


def _operands(rng: random.Random, limits: Sequence[int]) -> tuple[int, int]:
    return rng.randrange(rng.choice(limits)), rng.randrange(rng.choice(limits))


def direct(rng: random.Random) -> Exchange:
    """A sum or difference of numbers below 1000, a product of the tables, or an exact division."""
    symbol = rng.choices("+-*/", (5, 4, 3, 1))[0]
    if symbol == "+":
        a, b = _operands(rng, (20, 100, 100, 1000))
        value = a + b
    elif symbol == "-":
        a, b = _operands(rng, (20, 100, 100, 1000))
        if a < b and rng.random() < 0.9:
            a, b = b, a
        value = a - b
    elif symbol == "*":
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        if rng.random() < 0.3:
            a, b = rng.sample((rng.randint(2, 9), rng.randint(10, 99)), 2)
        value = a * b
    else:
        b, value = rng.randint(1, 12), rng.randint(0, 12)
        a = b * value
    text = _question(rng, a, b, symbol) if symbol != "/" else _division_question(rng, a, b)
    text, answer = _answer(rng, text, a, b, symbol, value)
    return Exchange(kind="arithmetic", user=text, answer=answer, short=answer.split()[-1], keys=_key(a, b, symbol))


def _division_question(rng: random.Random, a: int, b: int) -> str:
    if rng.random() < 0.3:
        return ask(rng, ("Divide {a} by {b}.", "What do you get when you divide {a} by {b}?"), a=a, b=b)
    return ask(rng, _QUESTIONS, sum=f"{a} {rng.choice(('/', '÷', 'divided by'))} {b}")


def think_add(a: int, b: int) -> str:
    """Return the column addition of two numbers, one place a line."""
    lines = [f"{a} + {b}"]
    carry, places = 0, max(len(str(a)), len(str(b)))
    for place in range(places):
        x, y = a // 10**place % 10, b // 10**place % 10
        total = x + y + carry
        terms = f"{x} + {y}" + (" + 1" if carry else "")
        carry = total // 10
        lines.append(f"{_PLACES[place]}: {terms} = {total}, write {total % 10}" + (", carry 1" if carry else ""))
    if carry:
        lines.append(f"{_PLACES[places]}: write 1")
    lines.append(f"So {a} + {b} = {a + b}")
    return "\n".join(lines)


def think_subtract(a: int, b: int) -> str:
    """Return the column subtraction of b from a, one place a line; a smaller a is turned round first."""
    if a < b:
        return f"{a} is less than {b}, so the result is negative.\n{think_subtract(b, a)}\nSo {a} - {b} = {a - b}"
    lines = [f"{a} - {b}"]
    borrow = 0
    for place in range(len(str(a))):
        x, y = a // 10**place % 10, b // 10**place % 10
        need = y + borrow
        terms = f"{x} - {y}" + (" - 1" if borrow else "")
        if x < need:
            lines.append(f"{_PLACES[place]}: {terms}, borrow, {x + 10} - {need} = {x + 10 - need}")
            borrow = 1
        else:
            lines.append(f"{_PLACES[place]}: {terms} = {x - need}")
            borrow = 0
    lines.append(f"So {a} - {b} = {a - b}")
    return "\n".join(lines)


def _times_digit(a: int, digit: int) -> list[str]:
    """Return lines for a number below 100 times one digit, by tens and ones."""
    tens, ones = a // 10 * 10, a % 10
    if not tens or not ones:
        return [f"{a} {TIMES} {digit} = {a * digit}"]
    return [
        f"{ones} {TIMES} {digit} = {ones * digit}",
        f"{tens} {TIMES} {digit} = {tens * digit}",
        f"{tens * digit} + {ones * digit} = {a * digit}",
    ]


def think_multiply(a: int, b: int) -> str:
    """Return the product of two numbers below 100 by the tens and ones of the second."""
    lines = [f"{a} {TIMES} {b}"]
    if a < 10 <= b:
        a, b = b, a
        lines.append(f"{a} {TIMES} {b}")
    if b < 10:
        lines += _times_digit(a, b)
    else:
        tens, ones = b // 10, b % 10
        lines.append(f"{b} = {tens * 10} + {ones}")
        lines += _times_digit(a, tens)
        lines.append(f"{a} {TIMES} {tens * 10} = {a * tens * 10}")
        lines += _times_digit(a, ones)
        lines.append(f"{a * tens * 10} + {a * ones} = {a * b}")
    lines.append(f"So the product is {a * b}")
    return "\n".join(lines)


def thinking(rng: random.Random) -> Exchange:
    """A sum, difference or product whose steps are written out before the answer."""
    symbol = rng.choices("+-*", (4, 4, 4))[0]
    if symbol == "*":
        a, b = rng.randint(2, 99), rng.randint(2, 99)
        if rng.random() < 0.35:
            a, b = rng.sample((rng.randint(2, 9), rng.randint(2, 99)), 2)
        value, reasoning = a * b, think_multiply(a, b)
    else:
        a, b = _operands(rng, (100, 1000, 1000))
        if symbol == "-" and a < b and rng.random() < 0.9:
            a, b = b, a
        value, reasoning = (a + b, think_add(a, b)) if symbol == "+" else (a - b, think_subtract(a, b))
    text, answer = _answer(rng, _question(rng, a, b, symbol), a, b, symbol, value)
    return Exchange(
        kind="arithmetic_think",
        user=text,
        answer=answer,
        short=answer.split()[-1],
        reasoning=reasoning,
        keys=_key(a, b, symbol),
    )


_MORE = (
    "{name} has {a} {thing} and buys {b} more. How many {thing} does {name} have now?",
    "{name} has {a} {thing}. A friend gives {name} {b} more. How many {thing} does {name} have?",
    "There are {a} {thing} in one box and {b} {thing} in another. How many {thing} are there in all?",
    "{name} found {a} {thing} in the morning and {b} {thing} in the evening. How many {thing} is that together?",
    "I have {a} {thing} and get {b} more. How many {thing} do I have?",
    "I have {a} {thing} and buy {b} more. How many do I have now?",
    "{name} has {a} {thing}, and I have {b}. How many {thing} do we have together?",
)
_FEWER = (
    "{name} has {a} {thing} and gives away {b}. How many {thing} are left?",
    "{name} had {a} {thing} and lost {b} of them. How many {thing} does {name} still have?",
    "There are {a} {thing} on the shelf and {b} are sold. How many {thing} are left?",
    "I had {a} {thing} and I gave {b} to {name}. How many {thing} do I have left?",
    "I have {a} {thing} and eat {b}. How many are left?",
    "I have {a} {thing}. I lose {b}. How many {thing} do I still have?",
    "{name} has {a} {thing} and sells {b}. How many does {name} keep?",
)
_GROUPS = (
    "There are {a} boxes with {b} {thing} each. How many {thing} are there?",
    "{name} buys {a} packs of {b} {thing}. How many {thing} is that?",
    "{a} people have {b} {thing} each. How many {thing} do they have together?",
)
_PRICES = (
    "I buy {a} {thing} for {b} euros each. How much do I pay?",
    "If I buy {a} {thing} for {b} euros each, how much do I pay?",
    "One of the {thing} costs {b} euros. {name} buys {a}. How much does {name} pay?",
    "{name} sells {a} {thing} for {b} euros each. How many euros is that?",
)


def word_problem(rng: random.Random) -> Exchange:
    """A short story problem with numbers below 100, answered with the sum and the thing counted."""
    symbol = rng.choices("+-*", (4, 4, 2))[0]
    name, thing = any_first_name(rng), rng.choice(PRODUCTS)
    templates: tuple[str, ...]
    if symbol == "*":
        a, b = rng.randint(2, 12), rng.randint(2, 12)
        prices = rng.random() < 0.35
        templates, value, reasoning = (
            _PRICES if prices else _GROUPS,
            a * b,
            f"All are equal, so I multiply.\n{a} {TIMES} {b} = {a * b}",
        )
    elif symbol == "+":
        a, b = rng.randint(2, rng.choice((12, 99))), rng.randint(1, rng.choice((12, 99)))
        templates, value, reasoning = _MORE, a + b, f"The numbers come together, so I add.\n{think_add(a, b)}"
    else:
        limit = rng.choice((12, 99, 99))
        b, a = sorted((rng.randint(1, limit), rng.randint(2, limit)))
        templates, value, reasoning = _FEWER, a - b, f"Some are taken away, so I subtract.\n{think_subtract(a, b)}"
    text = ask(rng, templates, name=name, thing=thing, a=a, b=b)
    if templates is _PRICES:
        thing = "euros"
    shown = TIMES if symbol == "*" else symbol
    counted = "1" if value == 1 else f"{value} {thing}"
    answer = f"{a} {shown} {b} = {value}, so the answer is {counted}."
    keys = (*_key(a, b, symbol), f"problem:{a}{symbol}{b}:{thing}")
    return Exchange(kind="word_problem", user=text, answer=answer, short=str(value), reasoning=reasoning, keys=keys)
