from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.executor.sampling.blocks import argmax, inverse_cdf, pad_to_blocks

ALMOST_ONE = 1.0 - 2.0**-53


def _naive(weights: torch.Tensor, uniform: float) -> int:
    """The first token whose cumulative float64 weight exceeds the target."""
    cumulative = np.cumsum(weights.double().numpy())
    return int(np.flatnonzero(cumulative > uniform * cumulative[-1])[0])


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sparsity=st.sampled_from([0.0, 0.5, 0.99]),
    uniforms=st.lists(st.floats(0, ALMOST_ONE), min_size=4, max_size=4),
)
def test_the_draw_inverts_the_cumulative_distribution(seed: int, sparsity: float, uniforms: list[float]) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Multiples of 2^-10, so that sums are exact in any order.
    weights = torch.randint(1, 1024, (4, 320), generator=generator) / 1024
    weights[torch.rand(4, 320, generator=generator) < sparsity] = 0.0
    weights[:, 17] = 0.25
    got = inverse_cdf(weights, torch.tensor(uniforms, dtype=torch.float64))
    assert got.tolist() == [_naive(line, uniform) for line, uniform in zip(weights, uniforms, strict=True)]


@settings(deadline=None, max_examples=200)
@given(seed=st.integers(0, 10_000), uniform=st.sampled_from([0.0, 5e-324, 0.5, ALMOST_ONE]))
def test_a_token_of_weight_zero_is_never_drawn(seed: int, uniform: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    weights = (torch.randn(16, 256, generator=generator) * 10).exp()
    weights[torch.rand(16, 256, generator=generator) < 0.9] = 0.0
    weights[torch.arange(16), torch.randint(256, (16,), generator=generator)] = 1.0
    drawn = inverse_cdf(weights, torch.full((16,), uniform, dtype=torch.float64))
    assert (weights.gather(1, drawn.unsqueeze(1)) > 0).all()


def test_a_lone_token_is_drawn_whatever_the_number() -> None:
    for token in (0, 63, 64, 127):
        weights = torch.zeros(3, 128)
        weights[:, token] = 1e-30
        assert inverse_cdf(weights, torch.tensor([0.0, 0.5, ALMOST_ONE], dtype=torch.float64)).tolist() == [token] * 3


@pytest.mark.parametrize("num_lines", [2, 3, 7, 33])
def test_a_line_gives_the_same_alone_and_among_others(num_lines: int) -> None:
    generator = torch.Generator().manual_seed(num_lines)
    weights = torch.rand(num_lines, 64 * 600, generator=generator)
    uniforms = torch.rand(num_lines, generator=generator, dtype=torch.float64)
    alone = [int(inverse_cdf(weights[i : i + 1], uniforms[i : i + 1])) for i in range(num_lines)]
    assert inverse_cdf(weights, uniforms).tolist() == alone


def test_argmax_takes_the_lowest_id_on_ties() -> None:
    logits = torch.zeros(3, 128)
    logits[0, [3, 70]] = 1.0
    logits[1, [90, 100]] = 1.0
    tokens, values = argmax(logits)
    assert tokens.tolist() == [3, 90, 0]
    assert values.tolist() == [1.0, 1.0, 0.0]


def test_argmax_shows_a_nan_wherever_it_is() -> None:
    logits = torch.ones(3, 128)
    logits[1, 77] = torch.nan
    assert argmax(logits)[1].isnan().tolist() == [False, True, False]


def test_padding_fills_up_to_the_block() -> None:
    assert pad_to_blocks(torch.ones(2, 65), -1.0)[:, 65:].tolist() == [[-1.0] * 63] * 2
    whole = torch.ones(2, 128)
    assert pad_to_blocks(whole, -1.0) is whole
