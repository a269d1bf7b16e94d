"""The native library is built once, found again, and never half written."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from bough.kernels.cpu import build
from bough.kernels.cpu.build import BuildError, library_path


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    return tmp_path / "cache" / "bough"


def fake_compiler(folder: Path, body: str) -> str:
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_library_is_built_once_and_needs_no_compiler_afterwards(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # the output is the last argument
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, 'for last; do :; done; echo built > "$last"'))
    path = library_path()
    assert path.parent == own_cache
    assert path.read_text() == "built\n"
    assert [entry.name for entry in own_cache.iterdir()] == [path.name]
    monkeypatch.setattr(build, "_compiler", lambda: None)
    assert library_path() == path


def test_a_compiler_that_fails_is_quoted_and_leaves_nothing(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, "echo strange option >&2; exit 1"))
    with pytest.raises(BuildError, match="failed: strange option"):
        library_path()
    assert list(own_cache.iterdir()) == []


def test_no_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "_compiler", lambda: None)
    with pytest.raises(BuildError, match="no C\\+\\+ compiler found"):
        library_path()


def test_a_folder_that_cannot_be_written_leads_to_the_next(
    own_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", fake_compiler(tmp_path, 'for last; do :; done; echo built > "$last"'))
    own_cache.parent.mkdir()
    own_cache.write_text("in the way")
    assert library_path().is_relative_to(tmp_path / "temp")


def test_another_cpu_has_another_library(monkeypatch: pytest.MonkeyPatch) -> None:
    here = build._key()
    monkeypatch.setattr(build, "_cpu_features", lambda: "flags : none")
    assert build._key() != here
