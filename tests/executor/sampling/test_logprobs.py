from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams, TokenLogprobs
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.logprobs import Logprobs

VOCAB = 128


def _read(logits: torch.Tensor, tops: list[int | None], tokens: list[int]) -> list[TokenLogprobs | None] | None:
    feature = Logprobs()
    for row, top in enumerate(tops):
        feature.add(row, SamplingParams(top_logprobs=top))
    batch = SampleBatch.build(torch.arange(len(tops)), torch.zeros(len(tops), dtype=torch.int64))
    captured = feature.capture(logits, batch)
    return captured.read(torch.tensor(tokens)) if captured else None


@settings(deadline=None)
@given(
    tops=st.lists(st.sampled_from([None, 0, 1, 2, 5, 20]), min_size=4, max_size=4),
    tokens=st.lists(st.integers(0, VOCAB - 1), min_size=4, max_size=4),
    seed=st.integers(0, 1000),
    step=st.sampled_from([0.0, 0.5, 2.0]),
)
def test_log_probabilities_equal_the_naive_ones(
    tops: list[int | None], tokens: list[int], seed: int, step: float
) -> None:
    logits = torch.randn(4, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    if step:
        logits = (logits / step).round() * step  # many ties
    result = _read(logits, tops, tokens)
    assert (result is None) == (tops == [None] * 4)
    for line, (top, token) in enumerate(zip(tops, tokens, strict=True)):
        entry = result[line] if result else None
        assert (entry is None) == (top is None)
        if entry is None:
            continue
        values = logits[line].double().numpy()
        expected = values - values.max() - np.log(np.exp(values - values.max()).sum())
        order = sorted(range(VOCAB), key=lambda v: (-values[v], v))[:top]
        assert entry.logprob == pytest.approx(expected[token], abs=1e-5)
        assert entry.rank == 1 + sum(value > values[token] for value in values)
        assert entry.top_ids == tuple(order)
        assert entry.top_logprobs == pytest.approx([expected[v] for v in order], abs=1e-5)


@pytest.mark.parametrize("num_lines", [2, 5, 32])
def test_a_line_has_the_same_log_probabilities_alone_and_among_others(num_lines: int) -> None:
    logits = torch.randn(num_lines, 64 * 300, generator=torch.Generator().manual_seed(num_lines))
    together = _read(logits, [3] * num_lines, list(range(num_lines)))
    alone = [_read(logits[i : i + 1], [3], [i]) for i in range(num_lines)]
    assert [[entry] for entry in together or ()] == alone


def test_a_removed_row_asks_for_nothing() -> None:
    feature = Logprobs()
    feature.add(0, SamplingParams(top_logprobs=2))
    feature.remove(0)
    batch = SampleBatch.build(torch.tensor([0]), torch.tensor([0]))
    assert feature.capture(torch.zeros(1, VOCAB), batch) is None
