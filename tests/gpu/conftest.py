"""Tests of what is optional run where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from bough.executor.gpu import shared_lines

collect_ignore = [] if find_spec("flashinfer") else ["test_flashinfer.py"]


@pytest.fixture
def short_prefixes_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decodes that have a page in common attend to it together, however little that saves."""
    monkeypatch.setattr(shared_lines, "LEAST_PAGES", 1)
    monkeypatch.setattr(shared_lines, "LEAST_SAVED_BYTES", 1)
