"""A judge with select: claims are judged side by side, each by the choice that the model finds likelier.

Shows `select`, the scores behind a choice, and branches that share what comes before them.
"""

from __future__ import annotations

from bough.lang import State, assistant, function, gen, select, system, user
from counts import counted

CLAIMS = ("Is Paris the capital of Italy?", "Is 58 bigger than 47?", "Is snow black?", "Does a horse say neigh?")


@function
def judge(s: State, claims: tuple[str, ...]) -> list[str]:
    """A line for each claim: the verdict, by how much it won, and the reason."""
    s += system("Answer truthfully.")
    group = s.fork(len(claims))
    group += lambda number: user(claims[number])
    group += assistant(select("verdict", ["Yes", "No"]) + gen("reason", max_tokens=24, stop="."))
    return [line(branch, claim) for branch, claim in zip(group, claims, strict=True)]


def line(s: State, claim: str) -> str:
    """What a branch has found."""
    best, other = s.meta("verdict").scores
    return f"{claim} {s['verdict']}{s['reason']} (ahead by {best.score - other.score:.1f})"


if __name__ == "__main__":
    with counted():
        lines = judge.run(CLAIMS, temperature=0.0).value
    print("\n".join(lines))
