"""Forbids the tokens that a grammar does not allow next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

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

    def __init__(self, device: torch.device) -> None:
        bytes_ = torch.arange(256, device=device).unsqueeze(1)
        forbidden = (bytes_ >> torch.arange(8, device=device)) & 1 == 0
        # Eight booleans as one int64, so that a byte of the mask is unpacked by one look-up.
        self._unpacked = forbidden.contiguous().view(torch.int64).squeeze(1)

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
        forbidden = self._unpacked[mask.bits.contiguous().view(torch.uint8).long()].view(torch.bool)
        width = min(num_words * _WORD_BITS, logits.shape[1])
        for line, row in zip(mask.lines, forbidden, strict=True):
            logits[line, :width].masked_fill_(row[:width], -torch.inf)
            logits[line, width:] = -torch.inf

    def accept(self, batch: SampleBatch, tokens: Tensor) -> None:
        """Nothing to note: the engine advances the matchers."""
