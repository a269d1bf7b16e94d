from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from bough.common.sampling import SamplingParams
from bough.executor.sampling.noise import Noise, uniforms
from tests.executor.sampling.reference import splitmix64


def _uniform(seed: int, position: int) -> float:
    noise = Noise(4, torch.device("cpu"))
    noise.add(2, SamplingParams(seed=seed))
    return float(noise.draw(torch.tensor([2]), torch.tensor([position])))


def test_the_documented_vectors_hold() -> None:
    vectors = {
        0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F),
        1234567: (0x599ED017FB08FC85, 0x2C73F08458540FA5, 0x883EBCE5A3F27C77),
    }
    for seed, outputs in vectors.items():
        for position, z in enumerate(outputs):
            assert splitmix64(seed, position) == z
            assert _uniform(seed, position) == (z >> 11) * 2.0**-53
    assert _uniform(0, 0) == 0.8833108082136426


@given(seed=st.integers(0, 2**64 - 1), position=st.integers(0, 200))
def test_every_seed_and_position_gives_the_splitmix_output(seed: int, position: int) -> None:
    assert _uniform(seed, position) == (splitmix64(seed, position) >> 11) * 2.0**-53


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**31))
def test_uniforms_are_at_least_zero_and_below_one(seed: int, position: int) -> None:
    assert 0.0 <= _uniform(seed, position) < 1.0


def test_neighbouring_seeds_and_positions_look_independent() -> None:
    seeds = torch.arange(200).repeat_interleave(200)
    grid = uniforms(seeds, torch.arange(200).repeat(200)).numpy().reshape(200, 200)
    counts = np.histogram(grid, bins=100, range=(0.0, 1.0))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 160  # chi-square, 99 degrees of freedom: p about 1e-4
    along_positions = np.corrcoef(grid[:, :-1].ravel(), grid[:, 1:].ravel())[0, 1]
    along_seeds = np.corrcoef(grid[:-1].ravel(), grid[1:].ravel())[0, 1]
    assert abs(along_positions) < 0.02
    assert abs(along_seeds) < 0.02
