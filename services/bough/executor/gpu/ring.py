"""Results on their way to the host: the sampling kernel writes them into pinned memory, and the host looks there.

No copy is launched and no event is recorded; a record of 8 bytes says by its tag which step it belongs to.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from bough.kernels.gpu.sampling import SampleCode
from bough.kernels.gpu.sampling_types import TAG_BITS

SLOTS = 16
"""Steps whose results fit; more than may be under way."""
_POLL_S = 20e-6
_CHECK_S = 0.5
_TAG_MASK = (1 << TAG_BITS) - 1
_TAG_SHIFT, _CODE_SHIFT = 40, 32
_FAILED = int(SampleCode.NOTHING_ALLOWED | SampleCode.NOT_FINITE)


class ResultRing:
    """[slots, max_lines] records in pinned memory and the number of the step to come.

    Args:
        max_lines: Lines of a step at most.
        device: The GPU.
    """

    def __init__(self, max_lines: int, device: torch.device) -> None:
        self.records = torch.full((SLOTS, max_lines), -1, dtype=torch.int64, pin_memory=device.type == "cuda")
        self.step_counter = torch.zeros(1, dtype=torch.int32, device=device)
        """Number of the step that samples next, on the device."""
        self._words: npt.NDArray[np.int64] = self.records.numpy()
        self._number = 0

    def next_number(self) -> int:
        """Number of the step that is being launched."""
        number, self._number = self._number, self._number + 1
        return number

    def is_there(self, number: int, num_lines: int) -> bool:
        """Whether all results of a step have come."""
        tags = self._words[number % SLOTS, :num_lines] >> _TAG_SHIFT
        return bool((tags == (number & _TAG_MASK)).all())

    def wait(self, number: int, num_lines: int, check: Callable[[], None]) -> None:
        """Sleep until all results of a step have come.

        Args:
            number: of the step.
            num_lines: that it sampled.
            check: called now and then; raises if the GPU has failed and nothing will come.
        """
        next_check = time.monotonic() + _CHECK_S
        while not self.is_there(number, num_lines):
            time.sleep(_POLL_S)
            if time.monotonic() > next_check:
                check()
                next_check = time.monotonic() + _CHECK_S

    def read(self, number: int, num_lines: int) -> tuple[list[int], dict[int, SampleCode]]:
        """Tokens of a step, and the codes of the lines that failed."""
        words = self._words[number % SLOTS, :num_lines]
        codes = (words >> _CODE_SHIFT) & _FAILED
        failed = {line: SampleCode(int(codes[line])) for line in np.flatnonzero(codes).tolist()}
        return (words & 0xFFFFFFFF).tolist(), failed
