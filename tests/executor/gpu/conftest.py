"""Tests that interpret kernels run where kernels are not compiled."""

from __future__ import annotations

import pytest

from tests.conftest import HAS_GPU

INTERPRETED = ["test_drafts.py", "test_forced_output.py", "test_pipeline.py", "test_whole_pipeline.py"]
collect_ignore = INTERPRETED if HAS_GPU else []


@pytest.fixture(autouse=True, scope="session")
def _kernels_are_interpreted_fast(interpreted_language: None) -> None: ...
