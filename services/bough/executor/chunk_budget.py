"""How many prompt tokens a step computes: all that fit, or few enough that those who decode beside them hardly notice.

A step takes as long as all its tokens take together, and every row that decodes waits for all of it. So the chunks
that join decodes get a share of their own, small against what the decodes take (the stall-free batches of
Sarathi-Serve, Agrawal et al. 2024). The share grows with the prompts that wait: with many, tokens come later for want
of rows that decode at all, not for want of fast steps.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from bough.executor.sequence import Sequence
from bough.executor.step import ComposerLimits, RowWork, StepPlan

PROMPTS_PER_SHARE = 4
"""Prompts that one share is for where no more than so many rows decode."""

PROMPTS_TIMES_DECODES = 1024
"""Prompts times decodes that one share is for: many rows end often, and as many prompts must take their places."""

MOST_SHARES = 6
"""With more, those who decode would wait too long for each token while a burst of prompts is computed."""

LEAST_CHUNK = 64
"""Tokens of one prompt a step that join decodes whatever they cost, so that the end of a very long one is reached."""

LAST_CHUNK = 1.5
"""How much longer than it might be the last chunk of a prompt is, so that no step is made for the few tokens after it.
The decodes of a step with chunks wait for its launches as well as for its tokens."""


def shares_of(num_prompts: int, num_decodes: int) -> float:
    """Shares of a step for so many prompts that could be computed, beside so many decodes.

    One is enough as long as prompts are computed as fast as rows end, and spreads them over steps that are cheap. More
    are needed where rows end faster, and where a row that waits is a large part of those that could decode.
    """
    for_places = num_prompts * num_decodes / PROMPTS_TIMES_DECODES
    for_those_who_wait = num_prompts / max(num_decodes, PROMPTS_PER_SHARE)
    return min(max(1.0, for_places + for_those_who_wait), MOST_SHARES)


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
        self._least = LEAST_CHUNK
        self._held_back: float | None = None

    @classmethod
    def of_step(cls, limits: ComposerLimits, contexts: npt.NDArray[np.int64], num_prompts: int) -> ChunkBudget:
        """The budget of a step before any chunk has joined it.

        Args:
            limits: of all steps.
            contexts: [R] tokens that each row which decodes in the step has computed.
            num_prompts: prompts that are being computed, or could be.
        """
        num_decodes = len(contexts)
        num_tokens = limits.token_budget - num_decodes
        budget = limits.mixed_budget
        if budget is None or not num_decodes:
            return cls(num_tokens)
        if budget.step_tokens - num_decodes >= LEAST_CHUNK:
            num_tokens = min(num_tokens, budget.step_tokens - num_decodes)
        cost = budget.tokens(num_decodes, int(contexts.sum()), shares_of(num_prompts, num_decodes))
        return cls(num_tokens, cost=min(cost, num_tokens), context_cost=limits.context_cost)

    @property
    def is_shared(self) -> bool:
        """Chunks join decodes, and may not cost what they like."""
        return self._cost != math.inf

    @property
    def is_spent(self) -> bool:
        """No further token may join."""
        return self._num_tokens < 1 or (self._cost < 1 and not self._least)

    def reserve(self, num_tokens: int) -> None:
        """So many tokens have joined that are no prompt's."""
        self._num_tokens -= num_tokens

    def hold_back(self, half: bool) -> None:
        """Keep half for the prompt that comes first, so that short ones do not wait for all of a long one."""
        if half:
            self._held_back = self._cost / 2
            self._cost -= self._held_back
            self._least = 0

    def give_back(self) -> None:
        """What was held back, and what the others have left, is for the prompt that comes first."""
        if self._held_back is not None:
            self._cost += self._held_back
            self._least = LEAST_CHUNK

    def add(self, plan: StepPlan, sequence: Sequence, page_size: int) -> None:
        """Schedule as much of a prompt as fits; nothing where that would be less than a page and not its end."""
        if self.is_spent:
            return
        start = sequence.num_computed
        num_tokens = self.fitting(sequence.num_uncomputed, start)
        is_last = num_tokens == sequence.num_uncomputed
        if not is_last:
            # Chunks that end with a page leave no page half published to those who wait for it.
            excess = (start + num_tokens) % page_size
            if excess < num_tokens:
                num_tokens -= excess
            elif self.is_shared and not self._least:
                self._cost = min(self._cost, 0.0)
                return
        plan.chunks.append(RowWork(sequence=sequence, start=start, num_tokens=num_tokens, samples=is_last))
        self.spend(num_tokens, start)

    def fitting(self, num_tokens: int, start: int) -> int:
        """How many of `num_tokens` tokens from position `start` on may join."""
        most = min(num_tokens, self._num_tokens)
        if not self.is_shared:
            return most
        # n tokens see start + n / 2 tokens of context on average.
        linear, half = 1 + self._context_cost * start, self._context_cost / 2
        affordable = self._cost / linear
        if half and self._cost > 0:
            affordable = (math.sqrt(linear * linear + 4 * half * self._cost) - linear) / (2 * half)
        fitting = max(int(affordable), self._least)
        is_last = most == num_tokens <= LAST_CHUNK * fitting
        return most if is_last else min(most, fitting)

    def spend(self, num_tokens: int, start: int) -> None:
        """So many tokens from position `start` on have joined."""
        self._num_tokens -= num_tokens
        self._cost -= num_tokens * (1 + self._context_cost * (start + num_tokens / 2))
        self._least = 0
