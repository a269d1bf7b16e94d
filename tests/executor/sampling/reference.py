"""Sampling written out naively, one line at a time in float64: what the sampler is compared with."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bough.common.sampling import SamplingParams

Doubles = NDArray[np.float64]


def splitmix64(seed: int, position: int) -> int:
    """Output number `position` of SplitMix64, by stepping through all before it."""
    state, output = seed, 0
    for _ in range(position + 1):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        output = z ^ (z >> 31)
    return output


def penalise(
    logits: Sequence[float], params: SamplingParams, prompt: Sequence[int], produced: Sequence[int]
) -> list[float]:
    """Repetition, frequency and presence penalties, token by token."""
    result = list(logits)
    for token in range(len(result)):
        if token in prompt or token in produced:
            if result[token] > 0:
                result[token] /= params.repetition_penalty
            else:
                result[token] *= params.repetition_penalty
        count = list(produced).count(token)
        result[token] -= params.frequency_penalty * count
        if count:
            result[token] -= params.presence_penalty
    return result


def filtered(logits: Sequence[float], params: SamplingParams) -> Doubles:
    """Probabilities after temperature, top-k, top-p and min-p, by sorting everything."""
    scaled = [x / params.temperature for x in logits]
    top = max(scaled)
    weights = [math.exp(x - top) for x in scaled]
    if params.top_k > 0:
        kth = sorted(weights, reverse=True)[min(params.top_k, len(weights)) - 1]
        weights = [w if w >= kth else 0.0 for w in weights]
    if params.top_p < 1.0:
        reached, target, cut = 0.0, params.top_p * sum(weights), 0.0
        for weight in sorted(weights, reverse=True):
            if reached >= target:
                break
            reached, cut = reached + weight, weight
        weights = [w if w >= cut else 0.0 for w in weights]
    weights = [w if w >= params.min_p else 0.0 for w in weights]
    return np.array(weights) / sum(weights)
