"""What this process may use of the machine: CPU cores and memory, within affinity and control-group limits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")
_UNLIMITED = 1 << 60


def available_cores(cgroup: Path = _CGROUP) -> int:
    """Physical cores among the CPUs this process may run on, at most the control group's quota, at least 1."""
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores = {_core_of(cpu) for cpu in cpus}
    return max(1, min(len(cores), _cpu_quota(cgroup)))


def _core_of(cpu: int) -> str:
    """The hardware threads of the core that a CPU belongs to; a CPU that tells nothing is a core of its own."""
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _cpu_quota(cgroup: Path) -> int:
    quotas = [_UNLIMITED]
    for text in _read_up(cgroup, "cpu.max"):
        quota, period = text.split()
        if quota != "max":
            quotas.append(-(-int(quota) // int(period)))
    return min(quotas)


def available_memory_bytes(cgroup: Path = _CGROUP) -> int:
    """Memory that can still be taken without swapping: the machine's, or less where a control group says so."""
    amounts = [_machine_available_bytes()]
    limits = [int(text) for text in _read_up(cgroup, "memory.max") if text != "max"]
    used = [int(text) for text in _read_up(cgroup, "memory.current")]
    if limits and used:
        amounts.append(max(0, min(limits) - used[0]))
    return min(amounts)


def _machine_available_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def resident_peak_bytes() -> int:
    """Largest resident size this process has had, 0 where the system does not tell."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 0


def _read_up(cgroup: Path, name: str) -> Iterator[str]:
    """The value of a control file in this process's group and in every group above it, nearest first."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    own = next((line[3:] for line in lines if line.startswith("0::")), "/")
    folder = cgroup / own.strip("/")
    for candidate in (folder, *folder.parents):
        if not candidate.is_relative_to(cgroup):
            return
        try:
            yield (candidate / name).read_text().strip()
        except OSError:
            continue
