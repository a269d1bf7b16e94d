"""How hard the property tests look: quickly in each run, for long when BOUGH_PROPERTY_TESTS=long is set."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

_LONG_FACTOR = 20


def property_settings(*, max_examples: int, steps: int) -> settings:
    """Settings of a stateful test: `max_examples` runs of up to `steps` rules, 20 times as many runs when long."""
    is_long = os.environ.get("BOUGH_PROPERTY_TESTS") == "long"
    return settings(
        max_examples=max_examples * (_LONG_FACTOR if is_long else 1),
        stateful_step_count=steps,
        deadline=None,
        database=None,
        derandomize=not is_long,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
