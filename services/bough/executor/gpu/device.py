"""Which device serves, and whether it can."""

from __future__ import annotations

from typing import Literal

import torch

from bough.executor.models.config import ModelError

_MIN_CAPABILITY = (8, 0)
"""bfloat16 and asynchronous copies to shared memory: Ampere and later."""


def choose_device(wanted: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """The device to serve on; `auto` takes a GPU where one can be used.

    Raises:
        ModelError: a GPU is asked for by name and cannot be used, with the reason.
    """
    if wanted == "cpu":
        return torch.device("cpu")
    problem = _problem()
    if problem is None:
        return torch.device("cuda", torch.cuda.current_device())
    if wanted == "cuda":
        raise ModelError(f"device = 'cuda' cannot be used: {problem}; 'cpu' and 'auto' are accepted")
    return torch.device("cpu")


def _problem() -> str | None:
    """Why no GPU can be used; None if one can."""
    if torch.version.cuda is None:
        return f"this torch ({torch.__version__}) is built without CUDA"
    if not torch.cuda.is_available():
        return "torch finds no CUDA device (is there one, is its driver loaded, does CUDA_VISIBLE_DEVICES hide it?)"
    capability = torch.cuda.get_device_capability()
    if capability < _MIN_CAPABILITY:
        name = torch.cuda.get_device_name()
        return f"{name} has compute capability {capability[0]}.{capability[1]}, 8.0 or newer is needed"
    try:
        import triton  # noqa: F401
    except ImportError as error:
        return f"triton cannot be imported ({error}); it comes with torch for Linux"
    return None
