"""Tree of thoughts: a long sum, one number a level; branches propose the next sum, checks prune the wrong ones.

Shows forks of forks, branches that check themselves in a copy, and the best of each level going on.
"""

from __future__ import annotations

from bough.lang import State, assistant, function, gen, user
from counts import counted


def propose(s: State, before: int, number: int, seed: int) -> None:
    """A thought: what the sum may be now, drawn at a high temperature so that branches differ."""
    s += user(f"What is {before} + {number}?")
    s += assistant(f"{before} + {number} = " + gen("sum", dtype=int, temperature=3.5, seed=seed))


def turned_round(s: State, number: int) -> State:
    """A copy of a branch in which the model is asked the other way round."""
    check = s.copy()
    check += user(f"What is {s['sum']} - {number}?")
    check += assistant(f"{s['sum']} - {number} = " + gen("before", dtype=int, temperature=0.0))
    return check


@function
def add_up(s: State, numbers: list[int], branches: int = 4, beam: int = 2) -> int:
    """The sum, found by a search in breadth."""
    level = [(numbers[0], s)]
    for number in numbers[1:]:
        thoughts = [(before, branch) for before, state in level for branch in state.fork(branches)]
        for seed, (before, branch) in enumerate(thoughts):
            propose(branch, before, number, seed)
        checks = [turned_round(branch, number) for _, branch in thoughts]
        pairs = zip(thoughts, checks, strict=True)
        kept = {branch["sum"]: branch for (before, branch), check in pairs if check["before"] == before}
        if not kept:  # the search goes on all the same
            kept = {branch["sum"]: branch for _, branch in thoughts}
        print(f"+ {number}: proposed {[branch['sum'] for _, branch in thoughts]}, kept {list(kept)[:beam]}")
        level = list(kept.items())[:beam]
    return level[0][0]


if __name__ == "__main__":
    with counted():
        total = add_up.run([112, 247, 85, 361]).value
    print("112 + 247 + 85 + 361 =", total)
