"""Tests that interpret kernels run where kernels are not compiled."""

from __future__ import annotations

from tests.conftest import HAS_GPU

collect_ignore = ["test_pipeline.py", "test_whole_pipeline.py"] if HAS_GPU else []
