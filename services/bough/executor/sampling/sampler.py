"""Composes the sampling features into one step: logits in, tokens out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from bough.common.sampling import SamplingParams, TokenLogprobs
from bough.executor.sampling.base import LogitFeature, SampleBatch
from bough.executor.sampling.blocks import argmax, inverse_cdf, pad_to_blocks
from bough.executor.sampling.filters import Filters
from bough.executor.sampling.grammar_mask import GrammarMask, GrammarMasking
from bough.executor.sampling.logit_bias import LogitBias
from bough.executor.sampling.logprobs import Logprobs
from bough.executor.sampling.min_tokens import MinTokens
from bough.executor.sampling.noise import Noise
from bough.executor.sampling.penalties import Penalties

NOTHING_ALLOWED = "no token is allowed: all logits are -inf"
"""Why a line fails in which masks and biases left nothing."""
NOT_FINITE = "the logits are not finite numbers"
"""Why a line fails whose logits contain NaN or +inf."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleResult:
    """What one step produced for its S lines of logits."""

    tokens: Tensor
    """[S] int64; 0 in failed lines."""
    logprobs: list[TokenLogprobs | None] | None = None
    """One for each line, None in lines that did not ask or failed; None as a whole when no line asked."""
    failed: Mapping[int, str] = field(default_factory=dict)
    """Lines from which no token can be drawn, with the reason; their sequences must end with an error."""


class Sampler:
    """State of all rows that sample, at stable row numbers, and the step over it.

    Order: log probabilities are captured from the raw logits; then penalties, logit bias, grammar mask, minimum
    length; then greedy rows take the largest logit (lowest id on ties), the others temperature, top-k, top-p, min-p
    and one random number each. What a line gets depends on its logits, parameters, own tokens and position alone.

    Not thread-safe: the thread that steps the model calls it.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        vocab_size: int,
        eos_token_ids: Sequence[int] = (),
        device: torch.device | str = "cpu",
    ) -> None:
        device = torch.device(device)
        self._vocab_size = vocab_size
        self._logprobs = Logprobs()
        self._features: tuple[LogitFeature, ...] = (
            Penalties(max_rows, vocab_size, device),
            LogitBias(max_rows, vocab_size, device),
            GrammarMasking(),
            MinTokens(max_rows, vocab_size, eos_token_ids, device),
        )
        self._filters = Filters(max_rows, device)
        self._noise = Noise(max_rows, device)

    @torch.inference_mode()
    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int] = ()
    ) -> None:
        """Set the state of a row, on admission and again after a retraction.

        Raises:
            ValueError: a token id of the prompt, the output or `logit_bias` is outside the vocabulary; the row is
                left without state.
        """
        try:
            for feature in self._features:
                feature.add(row, params, prompt_tokens, produced_tokens)
        except ValueError:
            self.remove(row)
            raise
        self._filters.add(row, params)
        self._noise.add(row, params)
        self._logprobs.add(row, params)

    @torch.inference_mode()
    def remove(self, row: int) -> None:
        """Forget a row; no effect when it has no state."""
        for feature in self._features:
            feature.remove(row)
        self._filters.remove(row)
        self._logprobs.remove(row)

    @torch.inference_mode()
    def sample(self, logits: Tensor, rows: Tensor, positions: Tensor, mask: GrammarMask | None = None) -> SampleResult:
        """Draw one token for each line and note it in the state of its row.

        Args:
            logits: [S, V] float32; overwritten.
            rows: [S] int64 row of each line, no row twice.
            positions: [S] int64 position of the token to produce; 0 is the first after the prompt.
            mask: what grammars allow, for the lines that have one.

        Raises:
            ValueError: the logits have another vocabulary size, or the mask does not fit.
        """
        if logits.shape[1] != self._vocab_size:
            raise ValueError(f"logits have {logits.shape[1]} columns, the vocabulary has {self._vocab_size}")
        if logits.shape[0] == 0:
            return SampleResult(tokens=torch.empty(0, dtype=torch.int64, device=logits.device))
        batch = SampleBatch.build(rows, positions, mask)
        logits = pad_to_blocks(logits.contiguous(), -torch.inf)
        captured = self._logprobs.capture(logits, batch)
        for feature in self._features:
            feature.apply(logits, batch)
        tokens, maxima = argmax(logits)
        failed = _failures(tokens, maxima)
        self._draw(logits, tokens, maxima, batch, failed)
        self._accept(tokens, batch, failed)
        logprobs = captured.read(tokens) if captured else None
        if logprobs is not None:
            for line in failed:
                logprobs[line] = None
        return SampleResult(tokens=tokens, logprobs=logprobs, failed=failed)

    def _draw(
        self, logits: Tensor, tokens: Tensor, maxima: Tensor, batch: SampleBatch, failed: Mapping[int, str]
    ) -> None:
        """Replace the greedy tokens of drawing lines by drawn ones."""
        lines = [line for line in batch.lines_of(self._filters.drawing) if line not in failed]
        if not lines:
            return
        if len(lines) == len(tokens):
            weights, drawing = logits, batch
        else:
            index = torch.tensor(lines, device=logits.device)
            weights, maxima, drawing = logits[index], maxima[index], batch.subset(lines)
        self._filters.apply(weights, maxima, drawing)
        drawn = inverse_cdf(weights, self._noise.draw(drawing.rows, drawing.positions))
        tokens[lines] = drawn

    def _accept(self, tokens: Tensor, batch: SampleBatch, failed: Mapping[int, str]) -> None:
        if failed:
            lines = [line for line in range(len(tokens)) if line not in failed]
            tokens, batch = tokens[lines], batch.subset(lines)
        for feature in self._features:
            feature.accept(batch, tokens)


def _failures(tokens: Tensor, maxima: Tensor) -> dict[int, str]:
    """Lines whose largest logit is not a finite number; their token becomes 0."""
    finite = np.isfinite(maxima.numpy())
    if finite.all():
        return {}
    lines = np.flatnonzero(~finite)
    tokens[lines] = 0
    return {
        line: NOTHING_ALLOWED if value == -torch.inf else NOT_FINITE
        for line, value in zip(lines.tolist(), maxima[lines].tolist(), strict=True)
    }
