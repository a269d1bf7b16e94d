"""Keeps a sequence from ending before it has `min_tokens` tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.table import Entries, TokenTable


class MinTokens:
    """Sets end-of-sequence and stop token ids to -inf at positions before `min_tokens`.

    A grammar outranks it: where the grammar allows nothing but to end, the sequence ends. So this runs after the
    grammar mask.
    """

    def __init__(self, max_rows: int, vocab_size: int, eos_token_ids: Sequence[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._ending = TokenTable(max_rows, vocab_size, device)
        self._min_tokens: dict[int, int] = {}

    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int]
    ) -> None:
        """Set a row; rows that have reached their minimum are not kept."""
        self.remove(row)
        if params.min_tokens <= len(produced_tokens):
            return
        ending = sorted({*self._eos_token_ids, *params.stop_token_ids})
        # An id that the model cannot produce needs no mask.
        ending = [token for token in ending if 0 <= token < self._vocab_size]
        if ending:
            self._ending.set(row, ending, [0.0] * len(ending))
            self._min_tokens[row] = params.min_tokens

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._ending.remove(row)
        self._min_tokens.pop(row, None)

    def apply(self, logits: Tensor, batch: SampleBatch) -> None:
        """Mask the rows that are below their minimum."""
        lines = [
            line
            for line in batch.lines_of(self._min_tokens)
            if batch.host_positions[line] < self._min_tokens[batch.host_rows[line]]
        ]
        if not lines:
            return
        ending = self._ending.entries(lines, [batch.host_rows[line] for line in lines])
        if ending is None:
            return
        before = ending.read(logits)
        ending.write(logits, torch.full_like(before, -torch.inf))
        if batch.mask is not None:
            _unmask_dead_ends(logits, ending, before, set(batch.mask.lines))

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Forget the rows that reach their minimum with this token."""
        for line in batch.lines_of(self._min_tokens):
            row = batch.host_rows[line]
            if batch.host_positions[line] + 1 >= self._min_tokens[row]:
                self.remove(row)


def _unmask_dead_ends(logits: Tensor, ending: Entries, before: Tensor, grammar_lines: set[int]) -> None:
    """Restore the ending tokens of lines with a grammar that have no other token left."""
    for i, line in enumerate(ending.lines):
        if line in grammar_lines and bool(logits[line].amax() == -torch.inf):
            logits[line, ending.tokens[i]] = before[i]
