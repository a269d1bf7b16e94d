from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.chunk_budget import LAST_CHUNK, LEAST_CHUNK, MOST_SHARES, PROMPTS_PER_SHARE, ChunkBudget
from bough.executor.mixed_budget import FixedBudget
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
    "num_prompts, shares", [(PROMPTS_PER_SHARE, 1), (2 * PROMPTS_PER_SHARE, 2), (1000, MOST_SHARES)]
)
def test_many_prompts_get_as_many_shares_as_they_need_but_no_more_than_a_step_holds(
    num_prompts: int, shares: int
) -> None:
    assert budget(num_prompts=num_prompts).fitting(100_000, 0) == min(256 * shares, 8192 - 64)


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
    assert chunks(budget(num_prompts=6), sequence(200), sequence(4000), sequence(4000)) == [200, 176]


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
