from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.load.distribution import Distribution


@given(st.lists(st.floats(1e-6, 1e4), min_size=1, max_size=200), st.sampled_from([1, 50, 90, 99, 100]))
def test_percentiles_are_those_of_the_sorted_values(values: list[float], percent: int) -> None:
    distribution = Distribution()
    for value in values:
        distribution.add(value)
    exact = sorted(values)[math.ceil(len(values) * percent / 100) - 1]
    assert distribution.percentile(percent) == pytest.approx(exact, rel=0.003)


def test_memory_does_not_grow_with_the_number_of_values() -> None:
    distribution = Distribution()
    for number in range(100_000):
        distribution.add(0.001 + number % 1000 * 1e-6)
    assert len(distribution._buckets) < 200
    assert distribution.count == 100_000


def test_a_summary_is_in_milliseconds_and_empty_ones_are_zero() -> None:
    distribution = Distribution()
    assert set(distribution.summary_ms().values()) == {0.0}
    distribution.add(0.25)
    assert distribution.summary_ms()["max"] == 250.0
    assert distribution.summary_ms()["mean"] == 250.0


def test_merged_distributions_are_as_if_all_values_had_been_added_to_one() -> None:
    one, other, both = Distribution(), Distribution(), Distribution()
    for number in range(1, 50):
        (one if number % 3 else other).add(number / 1000)
        both.add(number / 1000)
    one.merge(other)
    assert (one.count, one.summary_ms()) == (49, both.summary_ms())
