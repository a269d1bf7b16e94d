"""The folder of sockets."""

from __future__ import annotations

import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bough.cli.rundir import run_directory
from bough.common.config import ConfigError


@pytest.fixture(autouse=True)
def runtime_base(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Not below `tmp_path`, which is too long for a socket where several processes run the tests."""
    with tempfile.TemporaryDirectory() as base:
        monkeypatch.setenv("XDG_RUNTIME_DIR", base)
        yield Path(base)


def test_a_temporary_one_is_private_and_gone_afterwards(runtime_base: Path) -> None:
    with run_directory(None) as path:
        assert path.parent == runtime_base
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
        (path / "executor.sock").touch()
    assert list(runtime_base.iterdir()) == []


def test_a_given_one_is_made_and_kept_without_sockets(tmp_path: Path) -> None:
    given = tmp_path / "a" / "b"
    with run_directory(given) as path:
        (path / "gateway.sock").touch()
        (path / "mine").touch()
    assert [entry.name for entry in given.iterdir()] == ["mine"]


def test_stale_sockets_are_removed_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "executor.sock").touch()
    with run_directory(tmp_path) as path:
        assert not (path / "executor.sock").exists()


def test_two_launchers_cannot_share_one(tmp_path: Path) -> None:
    with run_directory(tmp_path), pytest.raises(ConfigError, match="in use"), run_directory(tmp_path):
        pass


def test_a_path_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="bytes too long"), run_directory(tmp_path / ("x" * 120)):
        pass


def test_what_a_killed_launcher_left_is_swept_and_what_a_live_one_uses_is_not(runtime_base: Path) -> None:
    dead = runtime_base / "bough-dead"
    dead.mkdir()
    (dead / "lock").touch()
    (dead / "executor.sock").touch()
    with run_directory(None) as live, run_directory(None):
        assert not dead.exists()
        assert live.exists()
