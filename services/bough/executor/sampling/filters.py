"""Temperature and the filters top-k, top-p and min-p."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.blocks import cumulative_sums
from bough.executor.sampling.candidates import Ints, kth_lower_bound, reaching

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

GREEDY_BELOW = 1e-6
"""Temperatures below this are greedy: only exact ties could still tell the two apart."""


class Filters:
    """Turns logits into the weights to draw from; each row in this order, as transformers does.

    1. temperature: `w = exp((logit - max logit) / temperature)`, so the likeliest token has weight 1;
    2. top-k: the k largest weights stay;
    3. top-p: of these, in falling order, those stay before which less than `top_p` of their sum has been reached
       (Holtzman et al. 2020), so the one that reaches it stays too;
    4. min-p: of these, those stay that have at least `min_p` times the largest weight.

    Tokens whose weight equals the smallest that stays in a filter stay too: no token is preferred to one that is just
    as likely. The others get weight 0. A temperature below `GREEDY_BELOW` and `top_k == 1` are greedy, without weights.
    """

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self._temperature = torch.ones(max_rows, device=device)
        self._top_k = torch.zeros(max_rows, dtype=torch.int64, device=device)
        self._top_p = torch.ones(max_rows, dtype=torch.float64, device=device)
        self._min_p = torch.zeros(max_rows, device=device)
        self._drawing: set[int] = set()
        self._ranked: set[int] = set()
        self._floored: set[int] = set()

    @property
    def drawing(self) -> set[int]:
        """The rows that draw at random; all others are greedy."""
        return self._drawing

    def add(self, row: int, params: SamplingParams) -> None:
        """Set a row."""
        self.remove(row)
        if params.temperature < GREEDY_BELOW or params.top_k == 1:
            return
        self._drawing.add(row)
        if params.top_k > 0 or params.top_p < 1.0:
            self._ranked.add(row)
        if params.min_p > 0.0:
            self._floored.add(row)
        self._temperature[row] = params.temperature
        self._top_k[row] = max(params.top_k, 0)
        self._top_p[row] = params.top_p
        self._min_p[row] = params.min_p

    def remove(self, row: int) -> None:
        """Forget a row."""
        for rows in (self._drawing, self._ranked, self._floored):
            rows.discard(row)

    def apply(self, logits: Tensor, maxima: Tensor, batch: SampleBatch) -> None:
        """Turn logits into weights, in place.

        Args:
            logits: [n, V] float32 of drawing rows, V a multiple of the block size.
            maxima: [n] the largest logit of each line, finite.
            batch: the rows of the n lines.
        """
        scale = 1.0 / self._temperature[batch.rows]
        logits.sub_(maxima.unsqueeze(1)).mul_(scale.unsqueeze(1)).exp_()
        lines = batch.lines_of(self._ranked | self._floored)
        if not lines:
            return
        everything = len(lines) == logits.shape[0]
        index = torch.tensor(lines, device=logits.device)
        weights = logits if everything else logits[index]
        cuts = self._cuts(weights, batch.rows[index], [batch.host_rows[line] for line in lines])
        values = weights.numpy()
        # By multiplication: filling under a mask takes five times as long.
        np.multiply(values, values >= cuts.unsqueeze(1).numpy(), out=values)
        if not everything:
            logits[index] = weights

    def _cuts(self, weights: Tensor, rows: Tensor, host_rows: list[int]) -> Tensor:
        """[n] the smallest weight that stays in each line."""
        cuts = self._min_p[rows]
        ranked = [i for i, row in enumerate(host_rows) if row in self._ranked]
        if ranked:
            index = torch.tensor(ranked, device=weights.device)
            chosen = weights if len(ranked) == len(host_rows) else weights[index]
            cut = _ranked_cuts(chosen, self._top_k[rows[index]].numpy(), self._top_p[rows[index]].numpy())
            cuts[index] = torch.maximum(cuts[index], torch.from_numpy(cut))
        return cuts


def _ranked_cuts(weights: Tensor, top_k: Ints, top_p: Doubles) -> Floats:
    """The smallest weight that top-k and top-p leave, of [n, V] weights; top_k 0 leaves all.

    Only weights that can matter are sorted. With top-k these are the ones from a lower bound of the k-th largest on.
    With top-p alone, all weights below `(1 - top_p) * sum / V` together are less than what top-p cuts off; half of
    that leaves room for rounding.
    """
    values = weights.numpy()
    num_lines, vocab_size = values.shape
    top_k = np.where(top_k < vocab_size, top_k, 0)
    sums = cumulative_sums(weights)[:, -1].numpy()
    bounds = (0.5 * (1.0 - top_p) * sums / vocab_size).astype(np.float32)
    limited = top_k > 0
    if limited.any():
        bounds = np.where(limited, kth_lower_bound(values, np.maximum(top_k, 1)), bounds)
    # A weight of zero is never drawn, wherever the cut is.
    bounds = np.maximum(bounds, np.finfo(np.float32).tiny)
    candidates = reaching(values, bounds)
    ordered = np.sort(candidates.values, axis=1)[:, ::-1]
    lines = np.arange(num_lines)
    kth = ordered[lines, np.where(limited, np.minimum(top_k, candidates.counts), candidates.counts) - 1]
    num_kept = (ordered >= kth[:, None]).sum(axis=1)
    reached = np.cumsum(np.maximum(ordered, 0.0), axis=1, dtype=np.float64)
    sums = np.where(limited, reached[lines, num_kept - 1], sums)
    last = np.minimum((reached < (top_p * sums)[:, None]).sum(axis=1), num_kept - 1)
    cuts: Floats = np.where(top_p < 1.0, ordered[lines, last], kth)
    return cuts
