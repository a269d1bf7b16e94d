"""What a program costs its server: prompt tokens that were computed, and those that were in the cache already."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from bough.client.client import default_url

_METRICS = ("bough_prefill_tokens_total", "bough_cached_tokens_total")


@contextmanager
def counted() -> Iterator[None]:
    """Print what the block has cost. Others who use the server meanwhile are counted too."""
    computed, cached = _totals()
    yield
    now_computed, now_cached = _totals()
    print(f"prompt tokens: {now_computed - computed} computed, {now_cached - cached} from the cache")


def _totals() -> list[int]:
    lines = httpx.get(f"{default_url()}/metrics", trust_env=False).raise_for_status().text.splitlines()
    return [sum(int(float(line.split()[-1])) for line in lines if line.startswith(name)) for name in _METRICS]
