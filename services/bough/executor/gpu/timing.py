"""How long the GPU takes for something."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch


def gpu_seconds(work: Callable[[], object]) -> float:
    """Seconds that what `work` queues on the current stream takes, the faster of two runs; waits for them."""
    events = [torch.cuda.Event(enable_timing=True) for _ in range(3)]  # type: ignore[no-untyped-call]
    events[0].record()
    for event in events[1:]:
        work()
        event.record()
    events[-1].synchronize()
    return min(float(first.elapsed_time(second)) for first, second in pairwise(events)) / 1e3
