"""What holds for all tests."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

HAS_GPU = any(Path(device).exists() for device in ("/dev/nvidiactl", "/dev/nvidia0"))
ROOT = Path(__file__).parent
LONGEST = ("integration", "executor/gpu", "kernels", "executor", "grammar", "lang")
"""Folders that come first where several processes run the tests, so that none has a long one left at the end."""

if not HAS_GPU:
    # Before any kernel is imported: Triton decides when a kernel is defined whether it is compiled or interpreted.
    os.environ.setdefault("TRITON_INTERPRET", "1")
    collect_ignore = ["gpu"]
# Before torch is imported. The models of most tests are too small to be shared, and threads that wait spin; besides,
# each of several processes that run the tests has a core. Executors that a test starts set their own number.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def interpreted_language() -> Iterator[None]:
    """Makes launches of kernels as fast as they can be where they are interpreted."""
    if os.environ.get("TRITON_INTERPRET") != "1":
        yield
        return
    from tests.helpers.interpreter import language_changed_once

    with language_changed_once():
        yield


@pytest.hookimpl(tryfirst=True)  # before the groups are read
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, for their fixtures, and those with a server of their own in one process."""
    if not config.pluginmanager.hasplugin("xdist"):
        return
    items.sort(key=lambda item: _place(item.path))
    for item in items:
        folder = item.path.relative_to(ROOT).parts[0]
        item.add_marker(pytest.mark.xdist_group(folder if folder == "integration" else str(item.path)))


def _place(path: Path) -> int:
    name = path.relative_to(ROOT).as_posix()
    return next((place for place, folder in enumerate(LONGEST) if name.startswith(f"{folder}/")), len(LONGEST))
