"""How many processes of a service a launcher starts: as asked for, or by the cores there are."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path

REPLICABLE = ("gateway", "tokenizer", "detokenizer")
"""Services that may have several copies behind one launcher."""

MAX_COPIES = 64

ACCEPTED = f"NAME=COUNT,… with NAME one of {', '.join(REPLICABLE)} and COUNT from 1 to {MAX_COPIES}"

_CORES_A_GATEWAY = 4
_MAX_GATEWAYS = 4
_CORES_FOR_TWO = 16


def parse_replicas(text: str) -> dict[str, int]:
    """Copies by service of `gateway=4,detokenizer=2`. ValueError says what is wrong and what is accepted."""
    copies: dict[str, int] = {}
    for part in text.split(","):
        name, _, count = (word.strip() for word in part.partition("="))
        if name not in REPLICABLE:
            raise ValueError(f"{part.strip()!r} names no service that can have copies; accepted is {ACCEPTED}")
        if not (count.isascii() and count.isdigit() and 1 <= int(count) <= MAX_COPIES):
            raise ValueError(f"{part.strip()!r} has no count of copies; accepted is {ACCEPTED}")
        if name in copies:
            raise ValueError(f"{name} is given twice; accepted is {ACCEPTED}")
        copies[name] = int(count)
    return copies


def format_replicas(copies: Mapping[str, int]) -> str:
    """The text that `parse_replicas` reads."""
    return ",".join(f"{name}={count}" for name, count in copies.items())


def automatic_replicas(cores: int) -> dict[str, int]:
    """Copies for a machine with so many cores for this process.

    Up to four cores one of each: copies would only take turns. Beyond, a gateway for every four cores, four at most,
    since a token costs the gateway most; and two tokenizers and detokenizers from 16 cores on. Scheduler and executor
    are always one, and the grammar service works beside the stream of tokens.
    """
    two = 2 if cores >= _CORES_FOR_TWO else 1
    return {
        "gateway": max(1, min(_MAX_GATEWAYS, cores // _CORES_A_GATEWAY)),
        "tokenizer": two,
        "detokenizer": two,
    }


def usable_cores(quota_file: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Cores that this process may use: of its affinity, and no more than its control group's quota.

    Args:
        quota_file: The quota as cgroup v2 shows it inside a container: `MICROSECONDS PERIOD`, or `max PERIOD`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # no such file, or no quota
        return cores
