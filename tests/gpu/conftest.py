"""Tests of what is optional run where it is installed."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore = [] if find_spec("flashinfer") else ["test_flashinfer.py"]
