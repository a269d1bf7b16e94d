"""`bough version`."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version


def run(argv: Sequence[str]) -> int:
    """Print the version of the installed package."""
    print(f"bough {version('bough')}")
    return 0
