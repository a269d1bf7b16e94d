"""The workloads that engines are compared on, as token ids."""

from __future__ import annotations

import random
import statistics

from bough.load.executor_driver import Case

_PREFILL_PROMPTS, _PREFILL_TOKENS = 16, 2048


def decode_case(rng: random.Random, rows: int, *, requests: int | None = None) -> Case:
    """128 random tokens in and 128 out; `rows` requests at once."""
    return Case(prompts=random_prompts(rng, requests or rows, 128), output_tokens=128, concurrency=rows)


def prefill_case(rng: random.Random) -> Case:
    """Long prompts with one token out."""
    return Case(prompts=random_prompts(rng, _PREFILL_PROMPTS, _PREFILL_TOKENS), output_tokens=1)


def random_prompts(rng: random.Random, count: int, num_tokens: int) -> list[list[int]]:
    """Prompts that share nothing, so that no engine's prefix cache has them."""
    return [[rng.randrange(300, 4000) for _ in range(num_tokens)] for _ in range(count)]


def median(values: list[float]) -> float:
    """The median, of at least one value."""
    return statistics.median(values)
