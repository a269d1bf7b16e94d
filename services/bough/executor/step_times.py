"""How long steps take, as measured at start-up: what a chunk of a prompt costs the rows that decode beside it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

SLOWDOWN = 1.5
"""How many times as long as a step of its decodes alone a step with chunks may take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """Seconds of steps of fixed sizes whose tokens see no context; smaller ones are padded to the next size.

    What decodes and chunks read of their contexts comes on top of both, of the decodes alone as well as of the step
    with chunks, so that their ratio changes little.
    """

    decode: Mapping[int, float]
    """Rows, ascending -> a whole step in which they decode."""
    layers: Mapping[int, float]
    """Tokens, ascending -> all layers over a step with chunks."""
    sample: Mapping[int, float]
    """Rows, ascending -> head and sampling after it."""

    def chunk_tokens(self, num_decodes: int) -> int:
        """Prompt tokens that may join so many decodes before the step takes `SLOWDOWN` times as long; 0 if none may."""
        bound = SLOWDOWN * _at(self.decode, num_decodes) - _at(self.sample, num_decodes)
        fitting = [size for size, seconds in self.layers.items() if seconds <= bound]
        return max(max(fitting, default=0) - num_decodes, 0)


def _at(times: Mapping[int, float], needed: int) -> float:
    """That of the first size which is large enough, or of the largest."""
    sizes = list(times)
    return times[sizes[min(bisect_left(sizes, needed), len(sizes) - 1)]]
