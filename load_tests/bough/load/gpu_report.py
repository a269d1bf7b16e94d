"""The tables of a run on a GPU: what could be reached at most, the peers, ours, ratios, and whether the goal is met."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bough.load.floors import H200
from bough.load.goals import METRICS, Metric
from bough.load.results import markdown

_OURS = "bough"
_TITLES = {"bough": "Bough", "vllm": "vLLM", "sglang": "SGLang"}


def report(result: Mapping[str, Any]) -> str:
    """All tables of a result, one a model."""
    system = result["machine"]
    gpus = system.get("gpus") or []
    where = f"{gpus[0]['name']}, driver {gpus[0]['driver']}" if gpus else f"no GPU, {system['cores']} cores"
    versions = ", ".join(f"{name} {number}" for name, number in system.get("versions", {}).items())
    repeats = result["parameters"].get("repeats")
    head = (
        f"{where}; {versions}; commit {result['commit']}, {result['time'][:10]}; median of {repeats}. "
        f"The floor is that of one H200: {H200.read_bytes_per_s / 1e12:.1f} TB/s, {H200.flop_per_s / 1e12:.0f} TFLOP/s."
    )
    if result["parameters"].get("small") == "True":
        head += " A trial with small sizes: titles name the full ones."
    tables = [_table(name, model) for name, model in result["measured"]["models"].items()]
    errors = [f"- failed: {what}: {why}" for what, why in result["measured"].get("errors", {}).items()]
    return "\n\n".join([head, *tables, *(["\n".join(errors)] if errors else [])])


def _table(name: str, model: Mapping[str, Any]) -> str:
    engines = model["engines"]
    values = {engine: found["values"] for engine, found in engines.items()}
    peers = [engine for engine in values if engine != _OURS]
    titles = [f"{_TITLES[peer]} {engines[peer].get('version', '')}".strip() for peer in peers]
    header = [name, "unit", "floor", *titles, _TITLES[_OURS], "of floor", "of best peer", "goal", "met"]
    known = {metric.key: metric for metric in METRICS}
    keys = dict.fromkeys([metric.key for metric in METRICS] + [key for part in values.values() for key in part])
    rows = []
    for key in keys:
        metric = known.get(key) or _unknown(key)
        if any(key in part for part in values.values()):
            rows.append(_row(name, metric, model["floors"].get(key), values, peers))
    return markdown(header, rows)


def _row(
    name: str, metric: Metric, floor: float | None, values: Mapping[str, Mapping[str, float]], peers: list[str]
) -> list[str]:
    theirs = {peer: values[peer][metric.key] for peer in peers if metric.key in values[peer]}
    ours = values.get(_OURS, {}).get(metric.key)
    goal = metric.goal(name, theirs)
    cells = [metric.title, metric.unit, _number(floor), *(_number(theirs.get(peer)) for peer in peers), _number(ours)]
    if ours is None:
        return [*cells, "", "", _number(goal), ""]
    cells.append("" if floor is None else f"{ours / floor:.2f}")
    cells.append("" if not theirs else f"{ours / metric.best(theirs):.2f}")
    met = "" if goal is None else ("yes" if metric.reaches(ours, goal) else "no")
    return [*cells, _number(goal), met]


def _unknown(key: str) -> Metric:
    """A metric of a size that has no line of its own, as of a small trial run."""
    is_time = key.startswith("decode") or (not key.endswith("rate") and key.startswith(("http", "beside")))
    unit = "share" if key.startswith("share ") else "ms" if is_time else "tok/s"
    return Metric(key=key, title=key, unit=unit, is_lower_better=is_time, goals={}, times_best_peer={})


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"
