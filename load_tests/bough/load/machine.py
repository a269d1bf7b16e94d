"""The machine, the commit, and what processes use; Linux tells it under /proc."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

_PROC = Path("/proc")
_PACKAGES = ("torch", "triton", "grpcio", "protobuf")
COMMIT_VARIABLE = "LOAD_COMMIT"
"""Environment variable with the commit, for a machine that has the files without their history."""


def describe() -> dict[str, Any]:
    """What a number depends on, as far as the machine goes."""
    return {
        "cpu": _first("cpuinfo", "model name") or platform.processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_average": round(os.getloadavg()[0], 2),
        "gpus": gpus(),
        "versions": {name: number for name in _PACKAGES if (number := _version(name)) is not None},
    }


def gpus() -> list[dict[str, str]]:
    """Name, driver and memory of each NVIDIA GPU; none where there is no driver."""
    fields = ("name", "driver_version", "memory.total")
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, check=True, timeout=30)
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[cell.strip() for cell in line.split(",")] for line in done.stdout.splitlines() if line]
    return [dict(zip(("name", "driver", "memory"), row, strict=True)) for row in rows]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def commit() -> str:
    """The commit of the checkout that this file is in, `+` for uncommitted changes; `unknown` outside of one."""
    if os.environ.get(COMMIT_VARIABLE):
        return os.environ[COMMIT_VARIABLE]
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _first(file: str, key: str) -> str | None:
    try:
        lines = (_PROC / file).read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process has used."""

    cpu_s: float
    resident_mb: float


def usage(pid: int) -> Usage:
    """CPU seconds and resident memory (MB) of a process and all its descendants; zeros for one that is gone."""
    cpu_s = resident_mb = 0.0
    for process in [pid, *_descendants(pid)]:
        try:
            fields = (_PROC / str(process) / "stat").read_text().rsplit(") ", 1)[1].split()
            pages = int((_PROC / str(process) / "statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
        cpu_s += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        resident_mb += pages * os.sysconf("SC_PAGE_SIZE") / 1e6
    return Usage(cpu_s=cpu_s, resident_mb=resident_mb)


def children(pid: int) -> list[int]:
    """Direct children of a process."""
    found: list[int] = []
    for task in (_PROC / str(pid) / "task").glob("*"):
        try:
            found += map(int, (task / "children").read_text().split())
        except OSError:
            continue
    return found


def command_line(pid: int) -> list[str]:
    """The words a process was started with; none for one that is gone."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for child in children(pid):
        found += [child, *_descendants(child)]
    return found


def own_cpu_s() -> float:
    """CPU seconds of this process alone."""
    times = os.times()
    return times.user + times.system
