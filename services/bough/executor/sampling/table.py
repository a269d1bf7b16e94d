"""A short list of token ids with a number each, per row: the state behind penalties, bias and minimum length.

A dense [rows, vocabulary] table would cost 156 MB at 256 rows of 151,936 tokens and a pass over the vocabulary in each
step; a sequence meets far fewer tokens than that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FIRST_CAPACITY = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """The entries of n lines as a rectangle: short lists repeat their first entry, so all repeats write the same."""

    lines: list[int]
    """[n] line of the logits."""
    tokens: Tensor
    """[n, W] int64"""
    values: Tensor
    """[n, W] float32"""

    def read(self, logits: Tensor) -> Tensor:
        """[n, W] of the [S, V] logits at the tokens."""
        return logits.view(-1).gather(0, self._places(logits)).view(self.tokens.shape)

    def write(self, logits: Tensor, new: Tensor) -> None:
        """Set the logits at the tokens to [n, W] values; equal tokens of a line have equal values."""
        logits.view(-1).scatter_(0, self._places(logits), new.reshape(-1))

    def _places(self, logits: Tensor) -> Tensor:
        lines = torch.tensor(self.lines, device=logits.device).unsqueeze(1)
        return (lines * logits.shape[1] + self.tokens).view(-1)


class TokenTable:
    """Entries (token, value) of each row in device tensors [rows, capacity]; capacity doubles as needed."""

    def __init__(self, max_rows: int, vocab_size: int, device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._tokens = torch.zeros(max_rows, _FIRST_CAPACITY, dtype=torch.int64, device=device)
        self._values = torch.zeros(max_rows, _FIRST_CAPACITY, device=device)
        self._used = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._bounds: dict[int, int] = {}

    @property
    def rows(self) -> dict[int, int]:
        """The rows that have a list (possibly empty), each with an upper bound of its length."""
        return self._bounds

    def set(self, row: int, tokens: Sequence[int], values: Sequence[float]) -> None:
        """Give a row its entries; tokens are distinct.

        Raises:
            ValueError: a token id is outside the vocabulary.
        """
        for token in tokens:
            if not 0 <= token < self._vocab_size:
                raise ValueError(
                    f"token id {token} is outside the vocabulary: 0 to {self._vocab_size - 1} are accepted"
                )
        self._reserve(len(tokens))
        device = self._tokens.device
        self._tokens[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.int64, device=device)
        self._values[row, : len(tokens)] = torch.tensor(values, dtype=torch.float32, device=device)
        self._used[row] = len(tokens)
        self._bounds[row] = len(tokens)

    def remove(self, row: int) -> None:
        """Forget a row's list."""
        if self._bounds.pop(row, None) is not None:
            self._used[row] = 0

    def snapshot(self, row: int) -> tuple[list[int], list[float]]:
        """The tokens and values of a row, in the order they came."""
        used = int(self._used[row])
        return self._tokens[row, :used].tolist(), self._values[row, :used].tolist()

    def entries(self, lines: list[int], rows: list[int]) -> Entries | None:
        """The entries of `rows[i]`, to be applied to `lines[i]` of the logits; None if there is none at all."""
        filled = [i for i, row in enumerate(rows) if self._bounds[row]]
        if not filled:
            return None
        device = self._tokens.device
        index = torch.tensor([rows[i] for i in filled], device=device)
        width = max(self._bounds[rows[i]] for i in filled)
        present = torch.arange(width, device=device) < self._used[index].unsqueeze(1)
        tokens, values = self._tokens[index, :width], self._values[index, :width]
        return Entries(
            lines=[lines[i] for i in filled],
            tokens=torch.where(present, tokens, tokens[:, :1]),
            values=torch.where(present, values, values[:, :1]),
        )

    def increment(self, rows: list[int], tokens: Tensor) -> None:
        """Add 1 to the value of `tokens[i]` ([n] int64) of `rows[i]`, with a new entry at the end where it has none."""
        for row in rows:
            self._bounds[row] += 1
        width = max(self._bounds[row] for row in rows)
        self._reserve(width)
        device = self._tokens.device
        index = torch.tensor(rows, device=device)
        used = self._used[index]
        present = torch.arange(width, device=device) < used.unsqueeze(1)
        same = (self._tokens[index, :width] == tokens.unsqueeze(1)) & present
        known, column = same.max(-1)
        column = torch.where(known, column, used)
        self._values[index, column] = torch.where(known, self._values[index, column], 0.0) + 1.0
        self._tokens[index, column] = tokens
        self._used[index] = used + ~known

    def _reserve(self, width: int) -> None:
        num_rows, capacity = self._tokens.shape
        if width <= capacity:
            return
        capacity = max(width, 2 * capacity)
        for name in ("_tokens", "_values"):
            old: Tensor = getattr(self, name)
            new = old.new_zeros(num_rows, capacity)
            new[:, : old.shape[1]] = old
            setattr(self, name, new)
