"""Values that a request adds to the logits of chosen tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.table import TokenTable


class LogitBias:
    """Adds `logit_bias` of the row's parameters, after the penalties."""

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._bias = TokenTable(max_rows, vocab_size, device)

    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int]
    ) -> None:
        """Set a row; rows without bias are not kept.

        Raises:
            ValueError: a token id is outside the vocabulary.
        """
        if not params.logit_bias:
            self.remove(row)
            return
        bias = dict(params.logit_bias)
        try:
            self._bias.set(row, list(bias), list(bias.values()))
        except ValueError as error:
            raise ValueError(f"logit_bias: {error}") from error

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._bias.remove(row)

    def apply(self, logits: Tensor, batch: SampleBatch) -> None:
        """Add the bias of the rows that have one."""
        lines = batch.lines_of(self._bias.rows)
        if not lines:
            return
        bias = self._bias.entries(lines, [batch.host_rows[line] for line in lines])
        if bias is not None:
            bias.write(logits, bias.read(logits) + bias.values)

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Nothing to note: the bias does not change."""
