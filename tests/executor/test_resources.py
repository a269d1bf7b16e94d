"""Cores and memory are counted within the limits of the control groups above the process."""

from __future__ import annotations

import os
from pathlib import Path

from bough.executor.resources import available_cores, available_memory_bytes, resident_peak_bytes


def own_group(root: Path) -> Path:
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    group = root / next((line[3:] for line in lines if line.startswith("0::")), "/").strip("/")
    group.mkdir(parents=True, exist_ok=True)
    return group


def test_cores_are_at_most_the_cpus_of_the_process(tmp_path: Path) -> None:
    assert 1 <= available_cores(tmp_path) <= len(os.sched_getaffinity(0))


def test_a_cpu_quota_is_rounded_up_to_whole_cores(tmp_path: Path) -> None:
    (own_group(tmp_path) / "cpu.max").write_text("50000 100000\n")
    assert available_cores(tmp_path) == 1
    (own_group(tmp_path) / "cpu.max").write_text("max 100000\n")
    assert available_cores(tmp_path) == available_cores(tmp_path / "none")


def test_memory_is_what_the_group_has_left(tmp_path: Path) -> None:
    group = own_group(tmp_path)
    (group / "memory.max").write_text("1000000\n")
    (group / "memory.current").write_text("400000\n")
    assert available_memory_bytes(tmp_path) == 600000
    (group / "memory.max").write_text("max\n")
    assert available_memory_bytes(tmp_path) > 600000


def test_the_resident_peak_is_known() -> None:
    assert resident_peak_bytes() > 1 << 20
