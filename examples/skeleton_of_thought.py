"""Skeleton of thought: the points of an answer first, then every point written out at the same time.

Shows that a program waits only where it reads, and how `join` gathers what the branches have found.
"""

from __future__ import annotations

from bough.lang import State, assistant, function, gen, user
from counts import counted


@function
def explain(s: State, question: str, detail: str) -> list[str]:
    """A sentence for each point of the answer to a question."""
    s += user(question) + assistant(gen("skeleton", max_tokens=32))
    points = s["skeleton"].split(", ")
    group = s.fork(len(points))
    group += lambda number: user(detail.format(points[number])) + assistant(gen("sentences", max_tokens=32))
    group.join()
    return list(s["sentences"])


if __name__ == "__main__":
    with counted():
        result = explain.run("Name four countries.", "What is the capital of {}?", temperature=0.0)
    print("skeleton:", result["skeleton"])
    print("\n".join(result.value))
