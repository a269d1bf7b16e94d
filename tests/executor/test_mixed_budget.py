"""How many prompt tokens may join decodes follows from how long steps were measured to take."""

from __future__ import annotations

import pytest

from bough.executor.mixed_budget import LEAST_TOKENS, SHARE, FixedBudget, TimedBudget

# 64 rows: 4 ms, of which sampling takes 1; layers over 64 to 1,024 tokens.
TIMES = TimedBudget(
    decode={1: 3e-3, 64: 4e-3, 256: 10e-3},
    layers={64: 3e-3, 128: 3.5e-3, 192: 4.9e-3, 256: 6e-3, 512: 12e-3, 1024: 21e-3},
    sample={1: 0.5e-3, 64: 1e-3, 256: 2e-3},
    context_s=0.1e-6,
)


@pytest.mark.parametrize(
    ("num_decodes", "context", "shares", "tokens"),
    [
        # 4 - 1 + 2 = 5 ms hold 192 tokens
        (64, 0, 1.0, 128),
        (40, 0, 1.0, 152),
        # 40,000 tokens of context make the decodes 4 ms longer, and the chunks 2: 7 ms hold 256
        (64, 40_000, 1.0, 192),
        # 3 + 2 x 2 = 7 ms
        (64, 0, 2.0, 192),
        # 8 + 4 x 5 = 28 ms hold all there is
        (256, 0, 4.0, 768),
        # 8 + 5 = 13 ms hold 512
        (256, 0, 1.0, 256),
        (65, 0, 1.0, 447),
    ],
)
def test_chunks_fill_the_largest_size_that_fits_into_the_time_of_their_shares(
    num_decodes: int, context: int, shares: float, tokens: int
) -> None:
    assert SHARE == 0.5
    assert TIMES.tokens(num_decodes, context, shares) == tokens


def test_prompts_move_on_where_any_chunk_takes_too_long() -> None:
    slow = TimedBudget(decode={8: 1e-3}, layers={16: 5e-3}, sample={8: 0.1e-3}, context_s=0.0)
    assert slow.tokens(8, 0, 1.0) == LEAST_TOKENS


def test_more_decodes_than_were_measured_are_taken_for_the_most() -> None:
    assert TIMES.tokens(300, 0, 1.0) == 512 - 300


@pytest.mark.parametrize(
    ("num_rows", "cost"),
    [
        # 64 more tokens: 0.5 ms of layers; of head and sampling 192 lines take 1 ms. A row's share is 4 ms / 64.
        (64, (0.5 / 64 + 1 / 192) / (4 / 64)),
        # between 64 and 128 tokens as for 64 rows, as steps are padded, but fewer rows share it
        (40, (0.5 / 64 + 1 / 192) / (4 / 40)),
        # within one size nothing more is computed
        (20, 0.0),
        # but a line of logits where there was one
        (1, 0.5 / 63 / 3),
        # 256 more tokens take 6 ms; of more lines nothing was measured
        (256, 6 / 256 / (10 / 256)),
    ],
)
def test_a_token_more_costs_what_a_step_of_twice_the_size_takes_longer(num_rows: int, cost: float) -> None:
    assert TIMES.token_cost(num_rows) == pytest.approx(cost)


def test_a_token_costs_no_more_than_a_row_and_nothing_where_larger_steps_seem_faster() -> None:
    steep = TimedBudget(decode={8: 1e-3}, layers={16: 1e-3, 32: 90e-3}, sample={8: 0.1e-3}, context_s=0.0)
    assert steep.token_cost(16) == 1.0
    falling = TimedBudget(decode={8: 1e-3}, layers={16: 2e-3, 32: 1e-3}, sample={8: 0.1e-3}, context_s=0.0)
    assert falling.token_cost(16) == 0.0


def test_a_number_that_was_given_holds_for_each_share() -> None:
    assert FixedBudget(100).tokens(64, 10_000, 2.5) == 250
