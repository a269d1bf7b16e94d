"""What the numbers of `bough bench gpu` are called, which way is better, and what they are to reach on one H200."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One number of an engine."""

    key: str
    title: str
    unit: str
    is_lower_better: bool
    goals: Mapping[str, float]
    """Model -> value to reach."""
    times_best_peer: Mapping[str, float]
    """Model -> multiple of the best peer's value in the same run to reach."""

    def goal(self, model: str, peers: Mapping[str, float]) -> float | None:
        """The value to reach for a model, given the peers' values; None where there is no goal."""
        if model in self.goals:
            return self.goals[model]
        if model in self.times_best_peer and peers:
            return self.times_best_peer[model] * self.best(peers)
        return None

    def best(self, peers: Mapping[str, float]) -> float:
        """The best of some values, of which there is at least one."""
        return min(peers.values()) if self.is_lower_better else max(peers.values())

    def reaches(self, value: float, goal: float) -> bool:
        """Whether a value is as good as a goal or better."""
        return value <= goal if self.is_lower_better else value >= goal


_SMALL, _LARGE = "qwen3-0.6b", "qwen3-8b"


def _metric(
    key: str, title: str, unit: str, small: float | None = None, large: float | None = None, *, of_peer: bool = False
) -> Metric:
    goals = {name: value for name, value in ((_SMALL, small), (_LARGE, large)) if value is not None}
    return Metric(
        key=key,
        title=title,
        unit=unit,
        is_lower_better=unit in ("ms", "s", "p99/p50"),
        goals={} if of_peer else goals,
        times_best_peer=goals if of_peer else {},
    )


METRICS = (
    _metric("decode 1", "decode step, 1 row", "ms", 0.7, 4.2),
    _metric("decode 8", "8 rows", "ms"),
    _metric("decode 32", "32 rows", "ms"),
    _metric("decode 64", "64 rows", "ms", 1.5, 5.0),
    _metric("decode 128", "128 rows", "ms"),
    _metric("decode 256", "256 rows", "ms", 3.5, 9.0),
    _metric("mixed", "256 requests, output", "tok/s", 40_000, 12_500),
    _metric("prefill", "prefill, 32 of 4,096", "tok/s", 1.0, 1.0, of_peer=True),
    _metric("shared prefix", "shared prefix", "req/s", 1.5, 1.25, of_peer=True),
    _metric("ready", "start-up, offline", "s", None, 20.0),
    _metric("closed 64", "64 streams, engine alone", "tok/s"),
    _metric("closed 256", "256 streams, engine alone", "tok/s"),
    _metric("http 1 ttft", "HTTP, 1 stream: TTFT p50", "ms", 8.0, 16.0),
    _metric("http 1 tpot", "TPOT p50", "ms", 0.9, 4.4),
    _metric("http 64 rate", "HTTP, 64 streams", "tok/s", 30_000, 8_500),
    _metric("share 64", "of the engine alone", "share", 0.9, 0.9),
    _metric("http 64 ttft", "TTFT p50", "ms"),
    _metric("http 64 itl_p50", "ITL p50", "ms"),
    _metric("http 64 itl_p99", "ITL p99", "ms"),
    _metric("http 256 rate", "HTTP, 256 streams", "tok/s", 35_000, 11_000),
    _metric("share 256", "of the engine alone", "share", 0.9, 0.9),
    _metric("http 256 ttft", "TTFT p50", "ms"),
    _metric("http 256 itl_p50", "ITL p50", "ms"),
    _metric("http 256 itl_p99", "ITL p99", "ms", 30.0, 40.0),
    _metric("beside itl_p50", "64 chats beside 8k prompts: ITL p50", "ms"),
    _metric("beside itl_p99", "ITL p99", "ms"),
    _metric("beside spread", "ITL", "p99/p50", 1.5, 1.5),
)
"""In the order of the table."""
