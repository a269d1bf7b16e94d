from __future__ import annotations

from pathlib import Path

import pytest

from bough.load.token_way import Streams, UnclearMeasurement, _delays, _step_ends_s

STREAMS = Streams(count=1, output_tokens=2)


def test_an_event_is_compared_with_the_step_of_its_last_token(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.write_text("1000000000 1\n2000000000 1\n3000000000 1\n4000000000 1\n")
    # The first stream warms up; the second brings both tokens in one event.
    delays = _delays([(0, 1.5), (1, 2.9), (3, 4.25)], _step_ends_s(file), STREAMS)
    assert delays.count == 1
    assert delays.largest_s == pytest.approx(0.25)


def test_steps_of_anybody_else_are_noticed(tmp_path: Path) -> None:
    file = tmp_path / "steps"
    file.write_text("1000000000 1\n2000000000 4\n")
    with pytest.raises(UnclearMeasurement, match="5 tokens where 4"):
        _delays([], _step_ends_s(file), STREAMS)
