"""Compiled grammars in files, across restarts and for all grammar services of a machine."""

from __future__ import annotations

import logging
import os
import struct
import time
import zlib
from contextlib import suppress
from hashlib import sha256
from itertools import count
from pathlib import Path

logger = logging.getLogger(__name__)

_MAGIC = b"bough-grammar-2\n"
_ZLIB_LEVEL = 1
"""Compiled forms repeat themselves: the fastest level makes them a fifth or less."""
_HEADER = struct.Struct(f"<{len(_MAGIC)}sQ32s")
_SUFFIX = ".grammar"
_STALE_S = 3600.0
"""Age at which a file that a service was writing when it died is removed."""


class DiskCache:
    """One file a grammar, named by its key. A file that cannot be used is removed, and none of it is ever an error.

    Args:
        folder: Where the files are; made when the first is written.
        max_bytes: Bound of all files together; those used longest ago go first.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._numbers = count()

    def read(self, key: bytes) -> bytes | None:
        """What is stored under a key, which counts as a use; None where there is nothing whole."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except OSError:
            return None
        data = _unpack(content)
        with suppress(OSError):
            if data is None:
                logger.warning("removed %s: it is damaged", path)
                path.unlink()
            else:
                os.utime(path)
        return data

    def write(self, key: bytes, data: bytes) -> None:
        """Store a value, and remove old ones beyond the bound."""
        packed = zlib.compress(data, _ZLIB_LEVEL)
        if _HEADER.size + len(packed) > self._max_bytes:
            return
        temporary = self._folder / f"{key.hex()}.{os.getpid()}-{next(self._numbers)}.tmp"
        try:
            self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            # Under another name until it is whole: other services read at any time.
            temporary.write_bytes(_HEADER.pack(_MAGIC, len(packed), sha256(packed).digest()) + packed)
            temporary.replace(self._path(key))
            self._trim()
        except OSError as error:
            logger.warning("cannot keep a compiled grammar in %s: %s", self._folder, error)
            with suppress(OSError):
                temporary.unlink()

    def _path(self, key: bytes) -> Path:
        return self._folder / (key.hex() + _SUFFIX)

    def _trim(self) -> None:
        found: list[tuple[float, int, str]] = []
        for entry in os.scandir(self._folder):
            with suppress(OSError):  # another service may have removed it
                status = entry.stat()
                if entry.name.endswith(_SUFFIX):
                    found.append((status.st_mtime, status.st_size, entry.path))
                elif entry.name.endswith(".tmp") and time.time() - status.st_mtime > _STALE_S:
                    os.unlink(entry.path)
        size = sum(file_size for _, file_size, _ in found)
        for _, file_size, path in sorted(found):
            if size <= self._max_bytes:
                return
            with suppress(OSError):
                os.unlink(path)
            size -= file_size


def default_folder() -> Path | None:
    """`$XDG_CACHE_HOME/bough/grammars`, below `~/.cache` where that is not set; None where there is no home."""
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "bough" / "grammars"
    except RuntimeError:
        return None


def _unpack(content: bytes) -> bytes | None:
    if len(content) < _HEADER.size:
        return None
    magic, length, digest = _HEADER.unpack_from(content)
    packed = content[_HEADER.size :]
    if magic != _MAGIC or length != len(packed) or sha256(packed).digest() != digest:
        return None
    with suppress(zlib.error):
        return zlib.decompress(packed)
    return None
