"""Log probabilities of the sampled token and of the likeliest ones."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bough.common.sampling import SamplingParams, TokenLogprobs
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.candidates import Floats, Ints, kth_lower_bound, reaching


class Logprobs:
    """Which rows want log probabilities, and how many of the likeliest tokens.

    They come from the model's logits before temperature, penalties, bias and masks. So they are captured before these
    are applied and read when the tokens are known.
    """

    def __init__(self) -> None:
        self._num_top: dict[int, int] = {}

    def add(self, row: int, params: SamplingParams) -> None:
        """Set a row."""
        self.remove(row)
        if params.top_logprobs is not None:
            self._num_top[row] = params.top_logprobs

    def remove(self, row: int) -> None:
        """Forget a row."""
        self._num_top.pop(row, None)

    def capture(self, logits: Tensor, batch: SampleBatch) -> CapturedLogprobs | None:
        """Take the log probabilities of the lines that want them from the raw [S, V] logits; None if none does."""
        lines = batch.lines_of(self._num_top)
        if not lines:
            return None
        chosen = logits if len(lines) == logits.shape[0] else logits[lines]
        num_top = np.array([self._num_top[batch.host_rows[line]] for line in lines], dtype=np.int64)
        return CapturedLogprobs(lines, torch.log_softmax(chosen, -1).numpy(), num_top)


class CapturedLogprobs:
    """The log probabilities [n, V] of some lines of one step, V a multiple of the block size."""

    def __init__(self, lines: list[int], logprobs: Floats, num_top: Ints) -> None:
        self._lines = lines
        self._logprobs = logprobs
        self._num_top = num_top

    def read(self, tokens: Tensor) -> list[TokenLogprobs | None]:
        """One entry for each of the [S] tokens; None for lines that did not ask.

        Ranks count the tokens that are likelier; tokens that are just as likely are listed by id.
        """
        picked = tokens[self._lines].numpy()
        own = self._logprobs[np.arange(len(picked)), picked]
        ranks = np.count_nonzero(self._logprobs > own[:, None], axis=1) + 1
        ids, values = self._likeliest()
        result: list[TokenLogprobs | None] = [None] * len(tokens)
        for i, (line, num_top) in enumerate(zip(self._lines, self._num_top.tolist(), strict=True)):
            result[line] = TokenLogprobs(
                logprob=float(own[i]),
                rank=int(ranks[i]),
                top_ids=tuple(ids[i, :num_top].tolist()),
                top_logprobs=tuple(values[i, :num_top].tolist()),
            )
        return result

    def _likeliest(self) -> tuple[Ints, Floats]:
        """Ids and log probabilities [n, K] of the likeliest tokens of each line, K the most that a line asks for."""
        most = int(self._num_top.max())
        if most == 0:
            return np.empty((len(self._lines), 0), dtype=np.int64), np.empty((len(self._lines), 0), dtype=np.float32)
        # A line with a NaN reaches no bound; its entries are never shown, for it fails.
        found = reaching(self._logprobs, kth_lower_bound(self._logprobs, np.maximum(self._num_top, 1)))
        order = np.argsort(-found.values, axis=1, kind="stable")[:, :most]
        return np.take_along_axis(found.ids, order, axis=1), np.take_along_axis(found.values, order, axis=1)
