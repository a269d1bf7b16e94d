"""What grammars allow next, filled on the host while the layers run and sent before the sampling of those lines."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bough.executor.gpu.transfer import to_device
from bough.executor.mask_filler import MaskFiller
from bough.executor.running import Running

_WORD_BITS = 32


class GrammarMasks:
    """Masks of the lines of a step: made in pinned memory where there is a GPU, and copied to the device.

    Args:
        masks: [L, ceil(V / 32)] int32 on the device, where the sampling of a step reads them.
        vocab_size: Columns of the logits.
        eos_token_ids: The model's end-of-sequence ids.
    """

    def __init__(self, masks: Tensor, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        self._masks = masks
        self._bits = torch.empty(masks.shape, dtype=torch.int32, pin_memory=masks.is_cuda)
        self._filler = MaskFiller()
        self._vocab_size = vocab_size
        self._eos_token_ids = frozenset(eos_token_ids)

    def fill(self, running: Sequence[Running], lines: Sequence[int]) -> dict[int, str]:
        """Ask the matchers of some lines, whose sequences are recorded up to their last token, and send the masks.

        The results of all steps before are there, or what was queued for them has been waited for: nothing reads the
        masks that are overwritten.

        Args:
            running: of each line of the step; one with drafts has several, side by side.
            lines: those with matchers, ascending.

        Returns:
            Lines whose matcher failed, with the reason; everything is allowed there, and the token must be dropped.
        """
        # Those that ended, or gave way, with a token that was under way: nobody wants their next one.
        asked = [line for line in lines if not running[line].is_ended and running[line].sequence.row is not None]
        if not asked:
            return {}
        entries = [running[line] for line in asked]
        failed = self._filler.fill(entries, self._bits)
        for index, entry in enumerate(entries):
            if index not in failed:
                self._keep_going(entry, index)
        device = self._masks.device
        bits = self._bits[: len(asked)].to(device, non_blocking=True)
        self._masks.index_copy_(0, to_device(asked, torch.int64, device), bits)
        return {asked[index]: reason for index, reason in failed.items()}

    def _keep_going(self, entry: Running, index: int) -> None:
        """Forbid the tokens that end the text before `min_tokens`, unless the grammar allows no others."""
        params = entry.sequence.params
        if entry.sequence.num_generated >= params.min_tokens:
            return
        words = self._bits[index].numpy()
        kept = words.copy()
        for token in self._eos_token_ids | set(params.stop_token_ids):
            if 0 <= token < self._vocab_size:
                kept.view("uint32")[token // _WORD_BITS] &= ~(1 << token % _WORD_BITS) & 0xFFFFFFFF
        tail = self._vocab_size % _WORD_BITS
        last = int(kept.view("uint32")[-1]) & ((1 << tail) - 1 if tail else 0xFFFFFFFF)
        if kept[:-1].any() or last:
            words[:] = kept
