from __future__ import annotations

import random

import pytest

from bough.load.dummy_model import config_of
from bough.load.floors import ModelSize
from bough.load.offline_cases import SMALL, Workload, closed_loops, workloads

SIZE = ModelSize.of(config_of("qwen3-0.6b"))


def workload(key: str) -> Workload:
    return next(one for one in workloads(SIZE) if one.key == key)


def test_a_decode_step_is_the_difference_of_a_long_and_a_short_run() -> None:
    decode = workload("decode 8")
    short, long = decode.make(random.Random(0))
    assert [set(case.outputs) for case in (short, long)] == [{4}, {260}]
    assert {len(prompt) for prompt in long.prompts} == {128} and len(long.prompts) == 8
    assert short.prompts[0] != long.prompts[0]  # no prefix cache helps the second
    assert decode.value([0.5, 0.5 + 0.256]) == pytest.approx(1.0)


def test_mixed_lengths_are_the_same_in_every_round_and_the_tokens_are_not() -> None:
    mixed, rng = workload("mixed"), random.Random(0)
    (one,), (other,) = mixed.make(rng), mixed.make(rng)
    assert [len(prompt) for prompt in one.prompts] == [len(prompt) for prompt in other.prompts]
    assert one.outputs == other.outputs and one.prompts[0] != other.prompts[0]
    assert len(one.prompts) == 256 and min(one.outputs) >= 100 and max(one.outputs) <= 1024
    assert mixed.value([2.0]) == sum(one.outputs) / 2


def test_shared_prefixes_are_shared_by_an_eighth_each() -> None:
    (case,) = workload("shared prefix").make(random.Random(0))
    prefixes = [tuple(prompt[:2048]) for prompt in case.prompts]
    assert len(prefixes) == 256 and {prefixes.count(one) for one in prefixes} == {32}
    assert len({tuple(prompt) for prompt in case.prompts}) == 256
    assert {len(prompt) for prompt in case.prompts} == {2176}


def test_all_tokens_are_within_the_vocabulary_and_all_sampled_without_an_end_of_their_own() -> None:
    for one in [*workloads(SIZE, SMALL), *closed_loops(SIZE)]:
        for case in one.make(random.Random(0)):
            assert min(map(min, case.prompts)) >= 0 and max(map(max, case.prompts)) < 151_643
            assert case.temperature == 1.0
