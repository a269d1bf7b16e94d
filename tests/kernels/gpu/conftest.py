"""The device that kernels are tested on: the GPU, or the CPU with Triton's interpreter."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture
def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True, scope="session")
def _kernels_are_interpreted_fast(interpreted_language: None) -> None: ...
