"""Builds ForwardBatches by hand, without a scheduler: rows with a trivial page allocator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from bough.executor.batch import ForwardBatch
from bough.executor.runner import ModelRunner


@dataclass(slots=True, kw_only=True)
class Row:
    """A sequence in the cache: its tokens, its pages, and how many tokens have been computed."""

    tokens: list[int]
    pages: list[int] = field(default_factory=list)
    num_computed: int = 0


class Driver:
    """Runs rows on a ModelRunner and hands pages out in a scattered order."""

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        generator = torch.Generator().manual_seed(7)
        self._free = torch.randperm(runner.num_pages, generator=generator).tolist()

    def row(self, tokens: Sequence[int], shared_with: Row | None = None, num_shared: int = 0) -> Row:
        """A new row; its first `num_shared` tokens (whole pages) are those of another row's cache."""
        row = Row(tokens=list(tokens))
        if shared_with is not None:
            assert num_shared % self.runner.page_size == 0
            row.pages = shared_with.pages[: num_shared // self.runner.page_size]
            row.num_computed = num_shared
        return row

    def step(self, work: Sequence[tuple[Row, int]]) -> Tensor:
        """Compute the next `n` tokens of each row; logits [rows, vocab] of the last one of each.

        Rows with a single token must come first, as in every batch.
        """
        for row, num_tokens in work:
            needed = -(-(row.num_computed + num_tokens) // self.runner.page_size)
            while len(row.pages) < needed:
                row.pages.append(self._free.pop())
        logits = self.runner.forward(make_batch(work, self.runner.page_size))
        for row, num_tokens in work:
            row.num_computed += num_tokens
        return logits

    def prefill(self, row: Row, chunk: int = 1 << 30) -> Tensor:
        """Compute all remaining tokens of a row in chunks; logits [tokens computed, vocab] of every one of them."""
        parts = []
        while row.num_computed < len(row.tokens):
            num_tokens = min(chunk, len(row.tokens) - row.num_computed)
            needed = -(-(row.num_computed + num_tokens) // self.runner.page_size)
            while len(row.pages) < needed:
                row.pages.append(self._free.pop())
            batch = make_batch([(row, num_tokens)], self.runner.page_size, all_logits=True)
            parts.append(self.runner.forward(batch))
            row.num_computed += num_tokens
        return torch.cat(parts)

    def generate(self, row: Row, num_tokens: int) -> list[int]:
        """Greedy continuation of a row, one token a step."""
        while row.num_computed < len(row.tokens) - 1:
            self.step([(row, len(row.tokens) - 1 - row.num_computed)])
        out = []
        for _ in range(num_tokens):
            out.append(int(self.step([(row, 1)])[0].argmax()))
            row.tokens.append(out[-1])
        return out


def make_batch(work: Sequence[tuple[Row, int]], page_size: int, all_logits: bool = False) -> ForwardBatch:
    """The tensors of a step in which each row computes its next `n` tokens."""
    tokens: list[int] = []
    positions: list[int] = []
    slots: list[int] = []
    starts = [0]
    for row, num_tokens in work:
        for position in range(row.num_computed, row.num_computed + num_tokens):
            tokens.append(row.tokens[position])
            positions.append(position)
            slots.append(row.pages[position // page_size] * page_size + position % page_size)
        starts.append(len(tokens))
    width = max(-(-(row.num_computed + n) // page_size) for row, n in work)
    table = torch.zeros(len(work), width, dtype=torch.int32)
    for index, (row, num_tokens) in enumerate(work):
        num_pages = -(-(row.num_computed + num_tokens) // page_size)
        table[index, :num_pages] = torch.tensor(row.pages[:num_pages], dtype=torch.int32)
    num_decodes = next((i for i, (_, n) in enumerate(work) if n != 1), len(work))
    wanted = range(len(tokens)) if all_logits else [start - 1 for start in starts[1:]]
    return ForwardBatch(
        tokens=torch.tensor(tokens),
        positions=torch.tensor(positions),
        slots=torch.tensor(slots),
        query_start=torch.tensor(starts, dtype=torch.int32),
        context_lens=torch.tensor([row.num_computed + n for row, n in work], dtype=torch.int32),
        page_table=table,
        num_decode_rows=num_decodes,
        logit_rows=torch.tensor(list(wanted), dtype=torch.int64),
    )
