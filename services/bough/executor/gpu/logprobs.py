"""Log probabilities of a step on their way to the host: copied behind the step, read when its tokens are."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bough.common.sampling import TokenLogprobs
from bough.kernels.gpu.sampling import LogprobOutputs


class LogprobCopy:
    """A copy under way to pinned memory.

    Args:
        outputs: On the device; overwritten by the next step that has some, in the order of the stream.
        num_top: Of each line, how many of the likeliest tokens are wanted; None: nothing.
    """

    def __init__(self, outputs: LogprobOutputs, num_top: Sequence[int | None]) -> None:
        self._num_top = num_top
        lines = len(num_top)
        self._copies = [
            tensor[:lines].to("cpu", non_blocking=True)
            for tensor in (outputs.logprobs, outputs.ranks, outputs.top_ids, outputs.top_logprobs)
        ]
        self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._copied.record()

    def read(self, failed: dict[int, str]) -> list[TokenLogprobs | None]:
        """One entry a line, None for those that did not ask or failed. The step's tokens are there already."""
        self._copied.synchronize()
        logprobs, ranks, top_ids, top_logprobs = (copy.tolist() for copy in self._copies)
        result: list[TokenLogprobs | None] = []
        for line, num_top in enumerate(self._num_top):
            if num_top is None or line in failed:
                result.append(None)
                continue
            result.append(
                TokenLogprobs(
                    logprob=logprobs[line],
                    rank=ranks[line],
                    top_ids=tuple(top_ids[line][:num_top]),
                    top_logprobs=tuple(top_logprobs[line][:num_top]),
                )
            )
        return result
