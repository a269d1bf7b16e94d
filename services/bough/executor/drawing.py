"""Draws the next tokens of a step: sets up the rows of the sampler and has the grammars fill their masks.

What goes wrong with one row is told of that row alone; the others of the step get their tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bough.executor.mask_filler import MaskFiller
from bough.executor.pipeline.base import Drawn
from bough.executor.running import Running
from bough.executor.sampling import GrammarMask, Sampler
from bough.executor.step import StepArrays

logger = logging.getLogger(__name__)

_WORD_BITS = 32


class Drawing:
    """The sampler and the grammar matchers over the rows of a step.

    Args:
        max_rows: Rows that may run at once.
        vocab_size: Columns of the logits.
        eos_token_ids: The model's end-of-sequence ids.
    """

    def __init__(self, *, max_rows: int, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._sampler = Sampler(max_rows=max_rows, vocab_size=vocab_size, eos_token_ids=eos_token_ids)
        self._filler = MaskFiller()
        self._vocab_size = vocab_size
        self._is_set: npt.NDArray[np.bool_] = np.zeros(max_rows, np.bool_)
        self._num_prompt: npt.NDArray[np.int64] = np.zeros(max_rows, np.int64)

    def draw(self, running: list[Running], arrays: StepArrays, logits: Tensor) -> Drawn:
        """Draw one token for each of the [S, V] float32 logits, which belong to `running` in this order."""
        rows = _sampling_rows(arrays)
        failed: dict[int, str] = {}
        if not self._is_set[rows].all():
            for line in np.flatnonzero(~self._is_set[rows]).tolist():
                self._set(running[line], line, failed)
        positions = arrays.positions[arrays.logit_rows] + 1 - self._num_prompt[rows]
        mask = self._mask(running, failed)
        result = self._sampler.sample(logits, torch.from_numpy(rows), torch.from_numpy(positions), mask)
        return Drawn(
            tokens=result.tokens.tolist(),
            logprobs=result.logprobs,
            failed={**result.failed, **failed},
        )

    def forget(self, running: Running) -> None:
        """Free the sampler's row of a sequence, if it has one."""
        if running.sampler_row is not None:
            self._sampler.remove(running.sampler_row)
            self._is_set[running.sampler_row] = False
            running.sampler_row = None

    def _set(self, running: Running, line: int, failed: dict[int, str]) -> None:
        sequence = running.sequence
        row, num_prompt = sequence.row, sequence.num_prompt
        assert row is not None
        self._is_set[row] = True
        self._num_prompt[row] = num_prompt
        running.sampler_row = row
        try:
            # The prompt, which may be long, is of interest to one penalty alone.
            prompt = sequence.since(0)[:num_prompt] if sequence.params.repetition_penalty != 1.0 else ()
            self._sampler.add(row, sequence.params, prompt, sequence.since(num_prompt))
        except Exception as error:
            _note_failure(failed, line, error)
            self._sampler.remove(row)

    def _mask(self, running: list[Running], failed: dict[int, str]) -> GrammarMask | None:
        lines = [line for line, entry in enumerate(running) if entry.matcher is not None]
        if not lines:
            return None
        bits = torch.empty((len(lines), -(-self._vocab_size // _WORD_BITS)), dtype=torch.int32)
        for index, reason in self._filler.fill([running[line] for line in lines], bits).items():
            failed[lines[index]] = reason
        return GrammarMask(bits=bits, lines=lines)


def _note_failure(failed: dict[int, str], line: int, error: Exception) -> None:
    if not isinstance(error, ValueError):
        logger.error("a row cannot be sampled", exc_info=error)
    failed[line] = f"the request cannot be sampled: {error}"


def _sampling_rows(arrays: StepArrays) -> npt.NDArray[np.int64]:
    """[S] stable row of each line of the logits."""
    if len(arrays.logit_rows) == arrays.num_decode_rows:
        return arrays.rows[: arrays.num_decode_rows]
    indices = np.searchsorted(arrays.query_start, arrays.logit_rows, side="right") - 1
    rows: npt.NDArray[np.int64] = arrays.rows[indices]
    return rows
