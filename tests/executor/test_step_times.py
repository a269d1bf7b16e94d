"""How many prompt tokens may join decodes follows from how long steps were measured to take."""

from __future__ import annotations

import pytest

from bough.executor.step_times import SLOWDOWN, StepTimes

# 64 rows: 4 ms, of which sampling takes 1; layers over 64 to 512 tokens.
TIMES = StepTimes(
    decode={1: 3e-3, 64: 4e-3, 256: 10e-3},
    layers={64: 3e-3, 128: 3.5e-3, 192: 4.9e-3, 256: 6e-3, 512: 12e-3},
    sample={1: 0.5e-3, 64: 1e-3, 256: 2e-3},
)


@pytest.mark.parametrize(
    ("num_decodes", "tokens"),
    [
        # 1.5 x 4 - 1 = 5 ms hold 192 tokens
        (64, 128),
        (40, 152),
        # 1.5 x 3 - 0.5 = 4 ms hold 128
        (1, 127),
        # 1.5 x 10 - 2 = 13 ms hold 512
        (256, 256),
        (65, 447),
    ],
)
def test_chunks_fill_the_largest_size_that_slows_decodes_no_more_than_they_may_be(
    num_decodes: int, tokens: int
) -> None:
    assert SLOWDOWN == 1.5
    assert TIMES.chunk_tokens(num_decodes) == tokens


def test_nothing_may_join_where_any_chunk_takes_too_long() -> None:
    slow = StepTimes(decode={8: 1e-3}, layers={16: 5e-3}, sample={8: 0.1e-3})
    assert slow.chunk_tokens(8) == 0


def test_more_decodes_than_were_measured_are_taken_for_the_most() -> None:
    assert TIMES.chunk_tokens(300) == 512 - 300
