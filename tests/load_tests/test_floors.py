from __future__ import annotations

import pytest

from bough.load.dummy_model import config_of
from bough.load.floors import ModelSize


@pytest.mark.parametrize(
    ("name", "steps_ms"),
    [("qwen3-0.6b", [0.29, 0.34, 0.51, 0.73, 1.19, 2.19]), ("qwen3-8b", [3.61, 3.68, 3.89, 4.18, 4.76, 7.22])],
)
def test_a_decode_step_takes_at_least_its_bytes_or_its_products(name: str, steps_ms: list[float]) -> None:
    size = ModelSize.of(config_of(name))
    rows = (1, 8, 32, 64, 128, 256)
    assert [round(1000 * size.decode_step_s(count, count * 258), 2) for count in rows] == steps_ms


def test_prefill_is_bound_by_products_and_longer_prompts_by_their_attention_too() -> None:
    size = ModelSize.of(config_of("qwen3-8b"))
    assert 4096 / size.prefill_s(4096) == pytest.approx(52_300, rel=0.01)
    assert size.prefill_s(8192) > 2 * size.prefill_s(4096)


def test_a_prompt_in_two_parts_costs_as_much_as_whole_but_for_its_first_tokens() -> None:
    size = ModelSize.of(config_of("qwen3-0.6b"))
    parts = size.prefill_s(3000) + size.prefill_s(1096, 3000)
    assert parts == pytest.approx(size.prefill_s(4096) + 2 * size.head_weights / 790e12)


def test_requests_that_ended_cost_nothing_any_more() -> None:
    size = ModelSize.of(config_of("qwen3-0.6b"))
    long_alone = size.decode_s([10], [100])
    assert size.decode_s([10, 10], [100, 2]) == pytest.approx(
        long_alone + size.decode_step_s(2, 22) - size.decode_step_s(1, 11)
    )
