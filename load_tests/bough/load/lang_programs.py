"""Programs of SGLang's paper in our language: chats, tree search, self-consistency, choices, tools in a loop, JSON.

Outputs have fixed lengths (`ignore_eos`), so that a program is the same work whatever the model says.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any

from bough.lang import AsyncFunction, AsyncState, assistant, function, gen, select, system, user
from bough.load.scenarios import WORDS

CHOICES = (" the first of these", " none of these", " all of them", " the last")
RECORD_TOKENS = 128
WORTH_TOKENS = 2
ANSWER_TOKENS = 4
ACTION_TOKENS = 6
_KEYS = ("kind_of_the_residence", "number_of_people", "country_of_the_residence", "year_of_the_visit")
_FEW = {"enum": ["house", "flat", "boat", "tent"]}
_SMALL = {"type": "integer", "minimum": 0, "maximum": 99}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": dict(zip(_KEYS, (_FEW, _SMALL, _FEW, _SMALL), strict=True)),
    "required": list(_KEYS),
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large programs are; lengths of texts in words, of which each is about a token."""

    context: int = 1200
    """What the branches or calls of a program share."""
    turn: int = 60
    turns: int = 4
    branches: int = 8
    tree_branches: int = 4
    depth: int = 2
    tokens: int = 16
    """Of an output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What one program is run on."""

    sizes: Sizes
    shared: str
    """Text that all programs of a round begin with, where they share something."""
    context: str
    """Text of this program alone."""
    turns: tuple[str, ...]


@function
async def multi_turn(s: AsyncState, task: Task) -> str:
    """A chat about a text."""
    s += system(task.context)
    for turn in task.turns:
        s += user(turn)
        s += assistant(gen("answer", max_tokens=task.sizes.tokens))
    return str(await s["answer"])


@function
async def tree_search(s: AsyncState, task: Task) -> str:
    """Ideas, each with what it is worth; the best one of a level goes on."""
    s += task.context
    best = s
    for _ in range(task.sizes.depth):
        group = best.fork(task.sizes.tree_branches)
        group += lambda number: f"\nIdea {number + 1}:" + gen(max_tokens=task.sizes.tokens)
        group += "\nWorth:" + gen("worth", max_tokens=WORTH_TOKENS)
        worths = [str(await branch["worth"]) for branch in group]
        best = group[worths.index(max(worths))]
        for branch in group:
            if branch is not best:
                branch.release()
    best += "\nSolution:" + gen("solution", max_tokens=task.sizes.tokens)
    return str(await best["solution"])


@function
async def self_consistency(s: AsyncState, task: Task) -> str:
    """Several ways to an answer; the answer that most of them have."""
    s += task.context
    group = s.fork(task.sizes.branches)
    group += gen("way", max_tokens=task.sizes.tokens, temperature=1.0)
    group += "\nSo the answer is" + gen("answer", max_tokens=ANSWER_TOKENS)
    group.join()
    answers: list[str] = await s["answer"]
    return Counter(answers).most_common(1)[0][0]


@function
async def few_shot_select(s: AsyncState, task: Task) -> str:
    """A question behind examples, answered by the likeliest of some texts."""
    s += task.shared
    s += "\nQuestion: " + task.turns[0] + "\nAnswer:" + select("answer", CHOICES)
    return str(await s["answer"])


@function
async def agent(s: AsyncState, task: Task) -> str:
    """Thoughts, and what a tool says to each action."""
    s += task.shared
    s += "\nQuestion: " + task.turns[0]
    for observation in task.turns[1:]:
        s += "\nThought:" + gen(max_tokens=task.sizes.tokens)
        s += "\nAction:" + gen("action", max_tokens=ACTION_TOKENS)
        # The tool needs to know it.
        await s["action"]
        s += "\nObservation: " + observation
    s += "\nAnswer:" + gen("answer", max_tokens=ANSWER_TOKENS)
    return str(await s["answer"])


@function
async def extraction(s: AsyncState, task: Task) -> str:
    """A record of what a text says."""
    s += task.context
    s += "\nAs JSON: " + gen("record", json_schema=SCHEMA, max_tokens=RECORD_TOKENS, ignore_eos=False)
    return json.dumps(json.loads(await s["record"]))


@dataclass(frozen=True, slots=True)
class Case:
    """A program of the benchmark."""

    name: str
    program: AsyncFunction[[Task], str]
    is_fork_heavy: bool = False


CASES = (
    Case("multi-turn chat", multi_turn),
    Case("tree search", tree_search, is_fork_heavy=True),
    Case("self-consistency", self_consistency, is_fork_heavy=True),
    Case("few-shot select", few_shot_select, is_fork_heavy=True),
    Case("agent", agent),
    Case("JSON", extraction),
)


def tasks(sizes: Sizes, seed: str, count: int) -> list[Task]:
    """Tasks of a round. Those of another seed have other words and the same lengths."""
    shared = _text(f"{seed} all", sizes.context)
    return [
        Task(
            sizes=sizes,
            shared=shared,
            context=_text(f"{seed} {number}", sizes.context),
            turns=tuple(_text(f"{seed} {number} {turn}", sizes.turn) for turn in range(sizes.turns)),
        )
        for number in range(count)
    ]


def _text(seed: str, num_words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=num_words))
