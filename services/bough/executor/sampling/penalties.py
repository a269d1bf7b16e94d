"""Presence, frequency and repetition penalties."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.table import TokenTable


class Penalties:
    """Makes tokens less likely that the sequence already has.

    For a token that was produced `n > 0` times, `logit -= frequency_penalty * n + presence_penalty` (OpenAI). For a
    token that the prompt or the output has, first `logit /= repetition_penalty` where positive, else `logit *=
    repetition_penalty` (Keskar et al. 2019, as transformers and vLLM apply it).

    State: for each penalised row the tokens seen, in the order of first appearance, with how often each was produced.
    """

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._seen = TokenTable(max_rows, vocab_size, device)
        self._presence = torch.zeros(max_rows, device=device)
        self._frequency = torch.zeros(max_rows, device=device)
        self._repetition = torch.ones(max_rows, device=device)

    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int]
    ) -> None:
        """Set a row; rows without penalties are not kept.

        Raises:
            ValueError: a token id is outside the vocabulary.
        """
        repeats = params.repetition_penalty != 1.0
        if not repeats and params.presence_penalty == 0.0 and params.frequency_penalty == 0.0:
            self.remove(row)
            return
        counts = Counter[int](dict.fromkeys(prompt_tokens, 0) if repeats else None)
        counts.update(produced_tokens)
        self._seen.set(row, list(counts), list(counts.values()))
        self._presence[row] = params.presence_penalty
        self._frequency[row] = params.frequency_penalty
        self._repetition[row] = params.repetition_penalty

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._seen.remove(row)

    def snapshot(self, row: int) -> tuple[list[int], list[float]]:
        """The tokens seen by a row and how often each was produced."""
        return self._seen.snapshot(row)

    def apply(self, logits: Tensor, batch: SampleBatch) -> None:
        """Penalise the rows that ask for it."""
        lines = batch.lines_of(self._seen.rows)
        if not lines:
            return
        seen = self._seen.entries(lines, [batch.host_rows[line] for line in lines])
        if seen is None:
            return
        rows = batch.rows[seen.lines].unsqueeze(1)
        values = seen.read(logits)
        repetition = self._repetition[rows]
        values = torch.where(values > 0, values / repetition, values * repetition)
        values -= self._frequency[rows] * seen.values
        values -= self._presence[rows] * (seen.values > 0)
        seen.write(logits, values)

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Count the tokens of penalised rows."""
        lines = batch.lines_of(self._seen.rows)
        if lines:
            self._seen.increment([batch.host_rows[line] for line in lines], tokens[lines])
