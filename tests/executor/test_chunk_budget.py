from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.chunk_budget import LAST_CHUNK, LEAST_CHUNK, MOST_SHARES, ChunkBudget, shares_of
from bough.executor.mixed_budget import FixedBudget, TimedBudget
from bough.executor.sequence import Sequence
from bough.executor.step import ComposerLimits, StepPlan


def budget(*, num_decodes: int = 64, num_prompts: int = 1, share: int | None = 256, cost: float = 0.0) -> ChunkBudget:
    limits = ComposerLimits(
        max_rows=256,
        token_budget=8192,
        max_context=1 << 20,
        mixed_budget=None if share is None else FixedBudget(share),
        context_cost=cost,
    )
    return ChunkBudget.of_step(limits, np.zeros(num_decodes, np.int64), num_prompts)


def test_prompts_have_the_whole_step_where_nobody_decodes_or_no_share_is_set() -> None:
    assert budget(num_decodes=0).fitting(100_000, 0) == 8192
    assert budget(share=None).fitting(100_000, 0) == 8192 - 64


def test_a_prompt_beside_decodes_gets_the_share() -> None:
    assert budget().fitting(100_000, 0) == 256
    assert budget().fitting(100, 0) == 100


@pytest.mark.parametrize(
    "num_prompts, num_decodes, shares",
    [
        # few for those who decode: they are computed while others decode, a share a step
        (12, 64, 1),
        (16, 32, 1),
        # as fast as they must be to take the places of those that end
        (8, 256, 2),
        # far more than decode: those who wait come first
        (12, 4, 3),
        (1000, 64, MOST_SHARES),
    ],
)
def test_prompts_get_more_shares_where_they_lag_behind_or_are_many_beside_those_who_decode(
    num_prompts: int, num_decodes: int, shares: int
) -> None:
    assert int(shares_of(num_prompts, num_decodes)) == shares


def test_a_prompt_has_as_many_tokens_as_its_shares_but_no_more_than_a_step_holds() -> None:
    twice = shares_of(32, 64) * 256
    assert 512 < twice < 1024
    assert budget(num_prompts=32).fitting(100_000, 0) == int(twice)
    assert budget(num_prompts=1000, share=4096).fitting(100_000, 0) == 8192 - 64


def test_a_step_with_decodes_does_not_outgrow_what_was_measured_not_even_for_the_end_of_a_prompt() -> None:
    timed = TimedBudget(decode={64: 1.0}, layers={128: 0.5, 512: 0.6}, sample={64: 0.1}, context_s=0.0)
    limits = ComposerLimits(max_rows=64, token_budget=8192, max_context=8192, mixed_budget=timed)
    left = ChunkBudget.of_step(limits, np.zeros(64, np.int64), 1)
    assert left.fitting(100_000, 0) == left.fitting(512 - 64 + 1, 0) == 512 - 64


def test_what_is_held_back_for_the_first_prompt_fits_into_the_step() -> None:
    # the budget allows far more than the step holds
    limits = ComposerLimits(max_rows=64, token_budget=200, max_context=8192, mixed_budget=FixedBudget(100_000))
    left = ChunkBudget.of_step(limits, np.zeros(8, np.int64), 2)
    left.hold_back(True)
    assert chunks(left, sequence(4000)) == [96]
    left.give_back()
    assert chunks(left, sequence(4000)) == [96]


def test_prompts_move_on_where_decodes_alone_fill_what_was_measured() -> None:
    timed = TimedBudget(decode={64: 1.0}, layers={64: 0.5}, sample={64: 0.1}, context_s=0.0)
    limits = ComposerLimits(max_rows=64, token_budget=8192, max_context=8192, mixed_budget=timed)
    assert ChunkBudget.of_step(limits, np.zeros(64, np.int64), 1).fitting(100_000, 0) >= LEAST_CHUNK


def test_a_prompt_whose_end_is_near_is_computed_to_its_end() -> None:
    assert budget().fitting(384, 0) == 384
    assert budget().fitting(385, 0) == 256
    few_left = ChunkBudget(300, cost=256)
    assert few_left.fitting(384, 0) == 256


def test_tokens_that_see_much_context_cost_more() -> None:
    # 4,096 tokens of context cost as much as the token itself.
    half = budget(cost=1 / 4096).fitting(100_000, 4096)
    assert 256 / 2 - 4 <= half <= 256 / 2


def test_a_chunk_is_never_cut_below_the_least_by_its_cost_alone() -> None:
    left = budget(cost=1.0)
    assert left.fitting(100_000, 1 << 20) == LEAST_CHUNK
    left.spend(LEAST_CHUNK, 1 << 20)
    assert left.is_spent


@given(
    wanted=st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 10_000)), min_size=1),
    share=st.integers(1, 9000),
    cost=st.floats(0, 0.01),
)
def test_chunks_stay_within_tokens_and_cost_and_a_step_with_room_takes_one(
    wanted: list[tuple[int, int]], share: int, cost: float
) -> None:
    left = ChunkBudget(1000, cost=share, context_cost=cost)
    spent, costs = 0, 0.0
    for num_tokens, start in wanted:
        if left.is_spent:
            break
        chunk = left.fitting(num_tokens, start)
        assert (not spent) <= chunk <= num_tokens
        left.spend(chunk, start)
        spent += chunk
        costs += chunk * (1 + cost * (start + chunk / 2))
    assert 1 <= spent <= 1000
    first = LEAST_CHUNK * (1 + cost * (wanted[0][1] + LEAST_CHUNK / 2))
    # Half as many tokens again may join as the end of a prompt, and a token that costs more than what is left.
    assert costs <= LAST_CHUNK**2 * max(share, first) + 1 + cost * 10_000


def sequence(num_tokens: int, num_computed: int = 0) -> Sequence:
    return Sequence(
        request_id=1, tokens=[1] * num_tokens, num_prompt=num_tokens, params=SamplingParams(), num_computed=num_computed
    )


def chunks(left: ChunkBudget, *sequences: Sequence) -> list[int]:
    plan = StepPlan(assemble=lambda plan: plan.arrays)
    for one in sequences:
        left.add(plan, one, 16)
    return [work.num_tokens for work in plan.chunks]


def test_a_prompt_gets_no_dust_only_its_end_may_be_less_than_a_page() -> None:
    assert chunks(budget(), sequence(250), sequence(4000), sequence(4000)) == [250]
    assert chunks(budget(), sequence(250), sequence(5)) == [250, 5]
    assert chunks(budget(num_prompts=19), sequence(200), sequence(4000), sequence(4000)) == [200, 176]


def test_others_share_half_and_the_first_prompt_takes_the_rest_and_always_moves() -> None:
    left = budget()
    left.hold_back(True)
    assert chunks(left, sequence(100), sequence(4000)) == [100, 16]
    left.give_back()
    assert chunks(left, sequence(4000)) == [128]
    poor = budget(cost=1.0)
    poor.hold_back(True)
    assert chunks(poor, sequence(90_000, 80_000)) == []
    poor.give_back()
    assert chunks(poor, sequence(90_000, 80_000)) == [LEAST_CHUNK]
