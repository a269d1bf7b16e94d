"""Where things are in the repository, for tests about the repository itself."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCE_ROOTS = ("common", "kernels", "services", "lang", "demo", "load_tests", "protos/gen")
"""Folders over the namespace package `bough`."""

CODE_FOLDERS = ("common", "kernels", "services", "lang", "demo", "tests", "load_tests", "scripts", "examples")
"""Folders of code that people write."""


def source_files() -> list[Path]:
    """Every Python file that people write."""
    return sorted(path for folder in CODE_FOLDERS for path in (ROOT / folder).rglob("*.py") if path.is_file())


def packages() -> dict[str, Path]:
    """Second-level packages: name below `bough` -> folder."""
    return {
        path.name: path
        for root in SOURCE_ROOTS
        for path in sorted((ROOT / root / "bough").glob("*"))
        if path.is_dir() and path.name != "__pycache__"
    }
