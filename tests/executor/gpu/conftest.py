"""Tests that interpret kernels run where kernels are not compiled."""

from __future__ import annotations

from tests.conftest import HAS_GPU

collect_ignore = ["test_drafts.py", "test_pipeline.py"] if HAS_GPU else []
