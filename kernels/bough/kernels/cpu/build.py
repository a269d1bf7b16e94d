"""Compiles the native operations for this machine and keeps the result.

The library is stored under `$XDG_CACHE_HOME/bough/cpu-<key>.so` (default `~/.cache`), the key being a hash of the
sources, the compiler flags and the features of the CPU: a changed source or another machine gets another file.
`python -m bough.kernels.cpu.build` builds it ahead of time and prints its path.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCES = Path(__file__).parent
_FLAGS = (
    "-std=c++17",
    "-O3",
    "-march=native",
    "-pthread",
    "-fPIC",
    "-fvisibility=hidden",
    "-Wall",
    "-Wno-psabi",
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
)
_TIMEOUT_S = 120.0


class BuildError(RuntimeError):
    """The native operations cannot be built here; the text says why."""


def library_path() -> Path:
    """The compiled library, built now if no earlier build fits.

    Raises:
        BuildError: there is neither a fitting library nor a working compiler.
    """
    name = f"cpu-{_key()}.so"
    folders = _cache_folders()
    for folder in folders:
        if _is_ours(folder) and (folder / name).is_file():
            return folder / name
    compiler = _compiler()
    if compiler is None:
        raise BuildError("no C++ compiler found (looked for $CXX, g++, c++) and no library was built before")
    errors = []
    for folder in folders:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_ours(folder):
                raise PermissionError("belongs to another user")
            _compile(compiler, folder / name)
            return folder / name
        except OSError as error:
            errors.append(f"{folder}: {error}")
    raise BuildError("no folder to build in: " + "; ".join(errors))


def _cache_folders() -> list[Path]:
    """Where libraries are looked for, the best place first."""
    base = os.environ.get("XDG_CACHE_HOME")
    home = Path(base) if base else Path.home() / ".cache"
    return [home / "bough", Path(tempfile.gettempdir()) / f"bough-{os.getuid()}"]


def _is_ours(folder: Path) -> bool:
    """Whether code in that folder may be loaded: nobody else can have put it there."""
    try:
        return folder.stat().st_uid in (os.getuid(), 0)
    except OSError:
        return False


def _compiler() -> str | None:
    for name in (os.environ.get("CXX"), "g++", "c++"):
        if name and (path := shutil.which(name)):
            return path
    return None


def _key() -> str:
    # not the compiler: a library built with one is used where there is none
    digest = hashlib.sha256()
    for path in sorted([*_SOURCES.glob("*.h"), *_SOURCES.glob("*.cpp")]):
        digest.update(path.read_bytes())
    digest.update(" ".join(_FLAGS).encode())
    digest.update(_cpu_features().encode())
    return digest.hexdigest()[:24]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return os.uname().machine
    return next((line for line in lines if line.startswith(("flags", "Features"))), os.uname().machine)


def _compile(compiler: str, target: Path) -> None:
    """Build into a temporary file and rename it, so that nobody ever opens half a library."""
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        built = Path(work) / "library.so"
        _call([compiler, *_FLAGS, "-shared", str(_SOURCES / "run.cpp"), "-o", str(built)])
        os.replace(built, target)


def _call(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} did not finish in {_TIMEOUT_S:.0f} s") from None
    if done.returncode != 0:
        raise BuildError(f"{' '.join(command[:2])} ... failed: {done.stderr.strip()[-2000:]}")


if __name__ == "__main__":
    sys.stdout.write(f"{library_path()}\n")
