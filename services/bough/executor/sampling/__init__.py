"""Turns logits into tokens: one state object per sampling feature, composed by `Sampler`; `StopRule` ends sequences."""

from __future__ import annotations

from bough.executor.sampling.grammar_mask import GrammarMask
from bough.executor.sampling.sampler import Sampler, SampleResult
from bough.executor.sampling.stop import StopRule

__all__ = ["GrammarMask", "SampleResult", "Sampler", "StopRule"]
