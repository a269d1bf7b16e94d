"""Which graph a large step takes. Graphs are stand-ins here."""

from __future__ import annotations

from typing import Any

import pytest

from bough.executor.gpu.large_steps import LargeSteps, _Captured


def steps_of(times: dict[int, tuple[float, float]]) -> LargeSteps:
    """With graphs of these sizes, the seconds of each and of its launches one by one."""
    graph: Any = None
    made = LargeSteps(lambda size, plan: None, sorted(times), is_planned=True, pool=None)
    made._captured = {size: _Captured(graph, graph_s, launch_s) for size, (graph_s, launch_s) in times.items()}
    return made


@pytest.mark.parametrize(
    ("num_tokens", "expected"),
    [
        (3000, 4096),  # as fast as the launches of 3,000 tokens
        (4096, 4096),
        (4097, 4097),  # 22 ms for half the tokens
        (7900, 7900),
        (8100, 8192),  # hardly any padding
        (8192, 8192),
        (8193, 8193),
    ],
)
def test_a_graph_is_taken_where_padding_costs_no_more_than_launches(num_tokens: int, expected: int) -> None:
    steps = steps_of({4096: (0.011, 0.014), 8192: (0.022, 0.014)})
    assert steps.size_for(num_tokens) == expected


def test_without_graphs_a_step_has_its_own_size() -> None:
    assert steps_of({}).size_for(5000) == 5000
