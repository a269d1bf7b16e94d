"""The folder of Unix sockets: private, short enough, owned by one launcher, gone when it ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from bough.common.config import SERVICES, ConfigError
from bough.common.replicas import MAX_COPIES

_LOCK = "lock"
_PREFIX = "bough-"
_MAX_SOCKET_PATH_BYTES = 107
"""Linux keeps 108 bytes for the path of a socket, the closing zero included."""


@contextlib.contextmanager
def run_directory(given: Path | None) -> Iterator[Path]:
    """A folder for the sockets of one launcher.

    Args:
        given: The folder to use, made if absent and kept at the end; None makes a temporary one.

    Raises:
        ConfigError: The path is too long for sockets, cannot be written, or another launcher uses it.
    """
    if given is None:
        base = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir())
        if not os.access(base, os.W_OK):
            base = Path(tempfile.gettempdir())
        _sweep(base)
        path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=base))
    else:
        path = _prepare(given)
    try:
        _check_length(path)
        with _locked(path):
            remove_sockets(path)
            yield path
            remove_sockets(path)
    finally:
        if given is None:
            shutil.rmtree(path, ignore_errors=True)


def remove_sockets(path: Path) -> None:
    """Remove the socket files that services left."""
    for name in SERVICES:
        for left in (path / f"{name}.sock", *path.glob(f"{name}-*.sock")):
            left.unlink(missing_ok=True)


def _prepare(path: Path) -> Path:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"run_dir {str(path)!r} cannot be made: {error}") from None
    return path.resolve()


def _check_length(path: Path) -> None:
    longest = max(len(os.fsencode(path / f"{name}-{MAX_COPIES}.sock")) for name in SERVICES)
    if longest > _MAX_SOCKET_PATH_BYTES:
        over = longest - _MAX_SOCKET_PATH_BYTES
        raise ConfigError(f"run_dir {str(path)!r} is {over} bytes too long for the path of a Unix socket")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path / _LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"run_dir {str(path)!r} is in use by another launcher") from None
    try:
        yield
    finally:
        (path / _LOCK).unlink(missing_ok=True)
        os.close(descriptor)


def _sweep(base: Path) -> None:
    """Remove folders of launchers that were killed: their lock is free."""
    for path in base.glob(f"{_PREFIX}*"):
        try:
            # A folder without a lock file may be another launcher's that has not come to locking it yet.
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            continue
        finally:
            os.close(descriptor)
