from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.sampling.base import SampleBatch
from bough.executor.sampling.filters import Filters
from tests.executor.sampling.reference import filtered

VOCAB = 192
PARAMS = st.builds(
    SamplingParams,
    temperature=st.sampled_from([0.1, 0.7, 1.0, 2.5]),
    top_k=st.sampled_from([0, 2, 3, 5, 50, 191, 192, 500]),
    top_p=st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.05, 1e-6]),
    min_p=st.sampled_from([0.0, 0.01, 0.3, 1.0]),
)


def _probabilities(logits: torch.Tensor, params: list[SamplingParams]) -> torch.Tensor:
    """Normalised weights of the filters, the rows in reverse order of the lines."""
    filters = Filters(len(params), torch.device("cpu"))
    rows = list(reversed(range(len(params))))
    for row, row_params in zip(rows, params, strict=True):
        filters.add(row, row_params)
    weights = logits.clone()
    batch = SampleBatch.build(torch.tensor(rows), torch.zeros(len(rows), dtype=torch.int64))
    filters.apply(weights, logits.amax(-1), batch)
    return weights / weights.sum(-1, keepdim=True)


def _check(logits: torch.Tensor, params: list[SamplingParams]) -> None:
    got = _probabilities(logits, params)
    for line, row_params in enumerate(params):
        expected = filtered(logits[line].tolist(), row_params)
        np.testing.assert_allclose(got[line].numpy(), expected, rtol=2e-5, atol=1e-9, err_msg=str(row_params))


@settings(deadline=None, max_examples=200)
@given(params=st.lists(PARAMS, min_size=1, max_size=6), seed=st.integers(0, 10_000))
def test_each_line_gets_the_distribution_of_its_own_parameters(params: list[SamplingParams], seed: int) -> None:
    logits = torch.randn(len(params), VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
    _check(logits, params)


@settings(deadline=None, max_examples=100)
@given(top_k=st.sampled_from([0, 2, 4, 9]), min_p=st.sampled_from([0.0, 0.2]), top_p=st.sampled_from([1.0, 0.77, 0.31]))
def test_tokens_that_tie_with_the_last_one_kept_stay(top_k: int, top_p: float, min_p: float) -> None:
    params = SamplingParams(top_k=top_k, top_p=top_p, min_p=min_p)
    logits = (torch.arange(VOCAB) * 7 % 11 == 0) * 2.0 + (torch.arange(VOCAB) % 60 == 1) * 3.0
    _check(logits.unsqueeze(0), [params])


@settings(deadline=None, max_examples=50)
@given(params=PARAMS, seed=st.integers(0, 1000))
def test_masked_tokens_never_come_back(params: SamplingParams, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, VOCAB, generator=generator)
    masked = torch.rand(1, VOCAB, generator=generator) < 0.98
    masked[0, 5] = False
    logits[masked] = -torch.inf
    probabilities = _probabilities(logits, [params])
    assert not probabilities[masked].any()
    assert probabilities.isfinite().all()
    assert probabilities[0, logits.argmax()] > 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e30])
def test_extreme_logits_give_finite_weights(scale: float) -> None:
    logits = torch.linspace(-1.0, 1.0, VOCAB).unsqueeze(0) * scale
    assert _probabilities(logits, [SamplingParams(temperature=1e-5, top_p=0.9, top_k=3)]).isfinite().all()


@pytest.mark.parametrize(
    ("params", "draws"),
    [
        (SamplingParams(temperature=0.0), False),
        (SamplingParams(temperature=1e-7), False),
        (SamplingParams(top_k=1), False),
        (SamplingParams(temperature=0.01), True),
    ],
)
def test_only_rows_with_temperature_and_a_choice_draw(params: SamplingParams, draws: bool) -> None:
    filters = Filters(1, torch.device("cpu"))
    filters.add(0, params)
    assert (0 in filters.drawing) == draws
    filters.remove(0)
    assert 0 not in filters.drawing
