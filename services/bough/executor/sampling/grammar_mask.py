"""Forbids the tokens that a grammar does not allow next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bough.common.sampling import SamplingParams
    from bough.executor.sampling.base import SampleBatch

_WORD_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarMask:
    """The tokens allowed next in some lines of the logits, filled by the grammar matchers."""

    bits: Tensor
    """[G, ceil(V / 32)] int32: bit `v % 32` of word `v // 32` is 1 where token v is allowed."""
    lines: list[int]
    """[G] line of the logits each mask belongs to; no line twice."""


class GrammarMasking:
    """Sets the logits of forbidden tokens to -inf. The matchers are not part of the state, only their masks come in."""

    def __init__(self) -> None:
        # What to add to eight logits, for each value of a byte of the mask: unpacked by one look-up, added in one pass.
        bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
        self._addends = np.where(bits == 1, np.float32(0.0), np.float32(-np.inf))

    def add(
        self, row: int, params: SamplingParams, prompt_tokens: Sequence[int], produced_tokens: Sequence[int]
    ) -> None:
        """Nothing to keep."""

    def remove(self, row: int) -> None:
        """Nothing to forget."""

    def apply(self, logits: Tensor, batch: SampleBatch) -> None:
        """Mask the lines that `batch.mask` names; tokens past the last word of a mask are forbidden too.

        Raises:
            ValueError: the mask has not one bit string of full length for each of its lines.
        """
        mask = batch.mask
        if mask is None or not mask.lines:
            return
        num_words = mask.bits.shape[-1]
        if mask.bits.dtype != torch.int32 or mask.bits.dim() != 2 or len(mask.lines) != mask.bits.shape[0]:
            raise ValueError(
                f"a grammar mask for {len(mask.lines)} lines has shape {tuple(mask.bits.shape)} and type "
                f"{mask.bits.dtype}; [lines, ceil(vocabulary / 32)] of torch.int32 is accepted"
            )
        width = min(num_words * _WORD_BITS, logits.shape[1])
        addends = self._addends.take(mask.bits.contiguous().view(torch.uint8).numpy(), axis=0)
        added = torch.from_numpy(addends).view(len(mask.lines), -1)[:, :width]
        if mask.lines == list(range(logits.shape[0])):
            logits[:, :width] += added
        else:
            for line, row in zip(mask.lines, added, strict=True):
                logits[line, :width] += row
        if width < logits.shape[1]:
            logits[mask.lines, width:] = -torch.inf

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Nothing to note: the engine advances the matchers."""
