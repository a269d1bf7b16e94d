"""Durations gathered in bounded memory, and their percentiles."""

from __future__ import annotations

import math
from collections import Counter

_BUCKETS_PER_E = 200
"""Buckets a factor of e: a percentile is off by a quarter of a percent at most, whatever the number of values."""

_SMALLEST_S = 1e-7


class Distribution:
    """Durations in buckets of equal ratio; an hour of load takes no more memory than a second."""

    def __init__(self) -> None:
        self.count = 0
        self.largest_s = 0.0
        self._sum_s = 0.0
        self._buckets: Counter[int] = Counter()

    def add(self, duration_s: float) -> None:
        """Take a duration in; not positive ones count as the smallest."""
        self.count += 1
        self._sum_s += duration_s
        self.largest_s = max(self.largest_s, duration_s)
        self._buckets[round(math.log(max(duration_s, _SMALLEST_S)) * _BUCKETS_PER_E)] += 1

    def merge(self, other: Distribution) -> None:
        """Take in all durations of another one."""
        self.count += other.count
        self.largest_s = max(self.largest_s, other.largest_s)
        self._sum_s += other._sum_s
        self._buckets.update(other._buckets)

    def percentile(self, percent: float) -> float:
        """The duration that `percent` of all do not exceed, seconds; 0 when there are none."""
        wanted = max(1, math.ceil(self.count * percent / 100))
        for bucket in sorted(self._buckets):
            wanted -= self._buckets[bucket]
            if wanted <= 0:
                return min(math.exp(bucket / _BUCKETS_PER_E), self.largest_s)
        return 0.0

    def summary_ms(self) -> dict[str, float]:
        """p50, p90, p99, mean and largest in milliseconds."""
        named = {f"p{percent}": self.percentile(percent) for percent in (50, 90, 99)}
        named |= {"mean": self._sum_s / self.count if self.count else 0.0, "max": self.largest_s}
        return {name: round(1000 * value, 3) for name, value in named.items()}
