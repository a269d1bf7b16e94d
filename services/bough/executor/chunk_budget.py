"""How many prompt tokens a step computes: all that fit, or few enough that those who decode beside them hardly notice.

A step takes as long as all its tokens take together, and every row that decodes waits for all of it. So the chunks
that join decodes get a share of their own, small against what the decodes take (the stall-free batches of
Sarathi-Serve, Agrawal et al. 2024). The share grows with the number of prompts that wait: with many, tokens come later
for want of rows that decode at all, not for want of fast steps.
"""

from __future__ import annotations

import math

from bough.executor.step import ComposerLimits

PROMPTS_PER_SHARE = 8
"""Prompts that one share is for. More get as many shares as they would need to be served in the same time."""

LEAST_CHUNK = 64
"""Tokens of a prompt that join decodes whatever they cost, so that the end of a very long prompt is not cut to dust."""


class ChunkBudget:
    """What is left of one step for chunks of prompts.

    Args:
        num_tokens: Tokens that the step may still have.
        cost: What they may cost together, in tokens without context; None where nobody decodes.
        context_cost: What a token of context adds to the cost of a token that sees it.
    """

    def __init__(self, num_tokens: int, *, cost: float | None = None, context_cost: float = 0.0) -> None:
        self._num_tokens = num_tokens
        self._cost = math.inf if cost is None else cost
        self._context_cost = context_cost
        self._is_fresh = True

    @classmethod
    def of_step(cls, limits: ComposerLimits, *, num_decodes: int, num_prompts: int) -> ChunkBudget:
        """The budget of a step before any chunk has joined it.

        Args:
            limits: of all steps.
            num_decodes: rows that decode in the step.
            num_prompts: prompts that are being computed, or could be.
        """
        num_tokens, share = limits.token_budget - num_decodes, limits.mixed_token_budget
        if share is None or not num_decodes:
            return cls(num_tokens)
        cost = share * max(1.0, num_prompts / PROMPTS_PER_SHARE)
        return cls(num_tokens, cost=cost, context_cost=limits.context_cost)

    @property
    def is_spent(self) -> bool:
        """No further token may join."""
        return self._num_tokens < 1 or (self._cost < 1 and not self._is_fresh)

    def fitting(self, num_tokens: int, start: int) -> int:
        """How many of `num_tokens` tokens from position `start` on may join; at least one unless it is spent."""
        most = min(num_tokens, self._num_tokens)
        if self._cost == math.inf:
            return most
        # n tokens see start + n / 2 tokens of context on average.
        linear, half = 1 + self._context_cost * start, self._context_cost / 2
        affordable = self._cost / linear
        if half:
            affordable = (math.sqrt(linear * linear + 4 * half * self._cost) - linear) / (2 * half)
        least = LEAST_CHUNK if self._is_fresh else 1
        return min(most, max(int(affordable), least))

    def spend(self, num_tokens: int, start: int) -> None:
        """So many tokens from position `start` on have joined."""
        self._num_tokens -= num_tokens
        self._cost -= num_tokens * (1 + self._context_cost * (start + num_tokens / 2))
        self._is_fresh = False
