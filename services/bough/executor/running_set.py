"""The sequences that have a row, by what they do next."""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from bough.executor.sequence import Sequence, SequenceStatus


def rank(sequence: Sequence) -> tuple[int, int]:
    """Key by which sequences are ordered: smaller is computed first and gives way last."""
    return sequence.order, sequence.request_id


class RunningSet:
    """Who prefills, who decodes, and who only waits for its last token to be recorded."""

    def __init__(self) -> None:
        self.prefilling: list[Sequence] = []
        """By rank."""
        self.decoding: list[Sequence] = []
        self._drafting: list[Sequence] = []
        self._finishing: list[Sequence] = []
        self._decode_rows: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.prefilling) + len(self.decoding) + len(self._drafting) + len(self._finishing)

    @property
    def decode_rows(self) -> npt.NDArray[np.int64]:
        """[D] rows of the decoding sequences. The same array as long as they are the same: not to be written to."""
        if self._decode_rows is None:
            self._decode_rows = np.array([sequence.row for sequence in self.decoding], np.int64)
        return self._decode_rows

    def start_prefilling(self, sequence: Sequence) -> None:
        """A sequence got its row."""
        sequence.status = SequenceStatus.PREFILLING
        insort(self.prefilling, sequence, key=rank)

    def start_decoding(self, sequence: Sequence) -> None:
        """A sequence has one token to compute, or none any more if it has reached its length."""
        if sequence.length >= sequence.max_length and sequence.num_pending:
            sequence.status = SequenceStatus.FINISHING
            self._finishing.append(sequence)
            return
        sequence.status = SequenceStatus.DECODING
        self.decoding.append(sequence)
        self._decode_rows = None

    def finish_decoding(self, sequences: Iterable[Sequence]) -> None:
        """Decoding sequences have reached their length."""
        for sequence in sequences:
            self.remove(sequence)
            sequence.status = SequenceStatus.FINISHING
            self._finishing.append(sequence)

    def start_drafting(self, sequence: Sequence) -> None:
        """A decoding sequence computes drafts."""
        self.remove(sequence)
        sequence.status = SequenceStatus.DRAFTING
        self._drafting.append(sequence)

    def stop_drafting(self, sequence: Sequence) -> None:
        """It decodes again."""
        self._drafting.remove(sequence)
        self.start_decoding(sequence)

    def remove(self, sequence: Sequence) -> None:
        """A sequence gives its row back."""
        if sequence.status is SequenceStatus.PREFILLING:
            self.prefilling.remove(sequence)
        elif sequence.status is SequenceStatus.FINISHING:
            self._finishing.remove(sequence)
        elif sequence.status is SequenceStatus.DRAFTING:
            self._drafting.remove(sequence)
        else:
            self.decoding.remove(sequence)
            self._decode_rows = None

    def sort(self) -> None:
        """Ranks have changed."""
        self.prefilling.sort(key=rank)

    def last_to_give_way(self) -> Sequence:
        """Who gives its pages up when they run out: the last by rank of those that still compute."""
        return max(self.prefilling + self.decoding, key=rank)
