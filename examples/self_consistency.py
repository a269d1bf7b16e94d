"""Self-consistency: one question, sixteen answers drawn at a high temperature, and the one with most votes.

Shows `gen(n=…)`, values with a type, and that the sixteen share one prefill of the question.
"""

from __future__ import annotations

from collections import Counter

from bough.lang import State, assistant, function, gen, user
from counts import counted


@function
def vote(s: State, a: int, b: int, voters: int = 16) -> Counter[int]:
    """What each voter says `a - b` is."""
    s += user(f"What is {a} - {b}?")
    s += assistant(f"{a} - {b} = " + gen("answers", dtype=int, n=voters, temperature=4.0, seed=1))
    return Counter(s["answers"])


if __name__ == "__main__":
    with counted():
        votes = vote.run(947, 388).value
    print("votes:", ", ".join(f"{count} x {answer}" for answer, count in votes.most_common()))
    print("947 - 388 =", votes.most_common(1)[0][0])
