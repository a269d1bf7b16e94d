"""What the generators share: exchanges, conversations, the held-out split and ways to phrase a question."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

__all__ = [
    "Conversation",
    "Exchange",
    "Generator",
    "Message",
    "Split",
    "ask",
    "draw",
    "fill",
    "is_held_out",
    "join_words",
    "normalise",
    "with_article",
]

T = TypeVar("T")
Message = Mapping[str, Any]
"""A chat message as the OpenAI API has it: role, content and, where they apply, tool_calls or reasoning_content."""

Split = str
"""`train` or `dev`."""

_HELD_OUT_OF = 20


def normalise(text: str) -> str:
    """Return `text` in lower case with single spaces and without punctuation, as keys and comparisons need it."""
    return " ".join(re.findall(r"[^\W_]+", text.casefold()))


def is_held_out(key: str) -> bool:
    """Tell whether content with this key is reserved for evaluation: a fixed 1 in 20 by hash of the key."""
    digest = hashlib.blake2b(key.encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") % _HELD_OUT_OF == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """A question with its answer, and what identifies its content for the held-out split."""

    kind: str
    user: str
    answer: str
    reasoning: str | None = None
    """What a thinking model writes before the answer; None where there is nothing to think about."""
    short: str = ""
    """The bare answer, where the user or the system text wants nothing else."""
    keys: tuple[str, ...] = ()
    """Content keys: training leaves the exchange out when any is held out, evaluation wants one that is."""
    tools: tuple[Mapping[str, Any], ...] = ()
    tool_calls: tuple[Mapping[str, Any], ...] = ()
    """Calls the assistant makes in place of `answer`; then `tool_results` and `final_answer` follow."""
    tool_results: tuple[str, ...] = ()
    final_answer: str = ""
    system: str = ""
    """System text that the exchange needs; it then must come first in its chat."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A chat to train on or to continue: every assistant message in it is a wanted answer."""

    kind: str
    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    enable_thinking: bool = False
    keys: tuple[str, ...] = field(default=())


Generator = Callable[[random.Random], Exchange]


def draw(rng: random.Random, generator: Generator, split: Split) -> Exchange:
    """Return an exchange of `generator` on the wanted side of the held-out split.

    Raises:
        RuntimeError: If the generator hardly ever produces that side.
    """
    for _ in range(2000):
        exchange = generator(rng)
        if any(is_held_out(key) for key in exchange.keys) == (split == "dev"):
            return exchange
    raise RuntimeError(f"{generator!r} produced no exchange of split {split!r} in 2000 tries")


def fill(template: str, **slots: object) -> str:
    """Replace `{slot}` marks; a slot's own braces stay as they are."""
    return re.sub(r"\{(\w+)\}", lambda match: str(slots[match.group(1)]), template)


_OPENERS = (
    "Hi! ",
    "Hello. ",
    "Quick question: ",
    "One question: ",
    "OK. ",
    "Next: ",
    "Thanks! ",
    "Great. ",
    "And now: ",
)
_CLOSERS = (" Thanks!", " Please.", " Thank you.", " Please!")


def ask(rng: random.Random, templates: Sequence[str], **slots: object) -> str:
    """Fill one of the templates and, at times, write it as people do: lower case, no final mark, a word around it."""
    template = rng.choice(templates)
    dice = rng.random()
    if dice < 0.12:
        template = template.lower()
    if rng.random() < 0.15:
        template = template.rstrip("?.!")
    elif dice > 0.95 and not template.endswith("}"):
        template += rng.choice(_CLOSERS)
    if 0.85 < dice < 0.93:
        template = rng.choice(_OPENERS) + template
    return fill(template, **slots)


def with_article(noun: str) -> str:
    """Return the noun with `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' and not noun.startswith('uni') else 'a'} {noun}"


def join_words(words: Sequence[str]) -> str:
    """Return words as prose: `a`, `a and b`, `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
