"""Metrics of many processes in one valid Prometheus exposition."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_CLASH = re.compile(r'([{,])(service|instance)="')


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessMetrics:
    """The metrics of one process."""

    service: str
    instance: str
    exposition: bytes
    """Prometheus' text format."""


@dataclass(slots=True)
class _Family:
    header: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)


def merge(processes: Iterable[ProcessMetrics]) -> bytes:
    """One exposition: each family once, each series labelled with the service and the instance it comes from.

    A process that is named twice (two peers report the one behind them) counts once.
    """
    families: dict[str, _Family] = {}
    seen: set[tuple[str, str]] = set()
    for process in processes:
        key = (process.service, process.instance)
        if key not in seen:
            seen.add(key)
            labels = f'service="{_escape(process.service)}",instance="{_escape(process.instance)}"'
            _add(families, process.exposition.decode(errors="replace"), labels)
    lines: list[str] = []
    for family in families.values():
        lines += family.header
        lines += family.samples
    return ("\n".join(lines) + "\n").encode()


def _add(families: dict[str, _Family], text: str, labels: str) -> None:
    current, name = _Family(), ""
    describes = False
    for line in text.splitlines():
        if line.startswith("# HELP ") or line.startswith("# TYPE "):
            named = line.split(" ", 3)[2]
            if named != name:
                name, describes = named, named not in families
                current = families.setdefault(name, _Family())
            if describes:
                current.header.append(line)
        elif line and not line.startswith("#"):
            end = min(i for i in (line.find("{"), line.find(" "), len(line)) if i >= 0)
            sample = line[:end]
            if not name or not sample.startswith(name):
                name, describes = sample, False
                current = families.setdefault(name, _Family())
            current.samples.append(_labelled(sample, line[end:], labels))


def _labelled(name: str, rest: str, labels: str) -> str:
    if not rest.startswith("{"):
        return f"{name}{{{labels}}}{rest}"
    own = _CLASH.sub(r'\1exported_\2="', rest)
    return f"{name}{{{labels}}}{own[2:]}" if own.startswith("{}") else f"{name}{{{labels},{own[1:]}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
