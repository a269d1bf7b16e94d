"""Small things that go to the GPU while steps are under way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(
    values: Sequence[int] | Sequence[float] | npt.NDArray[np.int32], dtype: torch.dtype, device: torch.device
) -> Tensor:
    """A tensor [n] on the device, copied in the order of its stream.

    `torch.tensor(values, device=...)` copies from memory that is not pinned, and so waits for all that is queued.
    """
    host = torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda")
    return host.to(device, non_blocking=True)
