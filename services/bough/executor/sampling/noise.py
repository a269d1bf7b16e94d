"""The random numbers of sampling: a function of (seed, position) and of nothing else."""

from __future__ import annotations

import torch
from torch import Tensor

from bough.common.sampling import SamplingParams

_U64 = 1 << 64
_I63 = 1 << 63


def _signed(value: int) -> int:
    """The int64 with the bits of a uint64."""
    return (value + _I63) % _U64 - _I63


_GAMMA = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def uniforms(seeds: Tensor, positions: Tensor) -> Tensor:
    """One number in [0, 1) for each (seed, position).

    It is output number `position`, counted from 0, of SplitMix64 seeded with `seed` (Steele, Lea and Flood, "Fast
    splittable pseudorandom number generators", OOPSLA 2014), cut to its upper 53 bits. In unsigned 64-bit arithmetic
    modulo 2^64, `>>` shifting zeros in:

        z = seed + (position + 1) * 0x9E3779B97F4A7C15
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB
        z = z ^ (z >> 31)
        uniform = (z >> 11) * 2^-53        (float64, exact)

    Test vectors, z for positions 0, 1, 2:

        seed 0:        0xE220A8397B1DCDAF  0x6E789E6AA1B965F4  0x06C45D188009454F
        seed 1234567:  0x599ED017FB08FC85  0x2C73F08458540FA5  0x883EBCE5A3F27C77

    so that `uniforms(0, 0)` is 0.88331080821364260. One number per token suffices because the token is drawn by
    inverting the cumulative distribution; noise per vocabulary entry costs ten times as much on a CPU.

    Args:
        seeds: [n] int64, the bits of the uint64 seeds.
        positions: [n] int64, not negative.

    Returns:
        [n] float64.
    """
    z = seeds + (positions + 1) * _GAMMA
    z = (z ^ _shift_right(z, 30)) * _MIX_1
    z = (z ^ _shift_right(z, 27)) * _MIX_2
    z = z ^ _shift_right(z, 31)
    return _shift_right(z, 11).double() * 2.0**-53


def _shift_right(z: Tensor, bits: int) -> Tensor:
    """Shift zeros in from the left; on int64 `>>` alone would copy the sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class Noise:
    """The seeds of the rows."""

    def __init__(self, max_rows: int, device: torch.device) -> None:
        self._seeds = torch.zeros(max_rows, dtype=torch.int64, device=device)

    def add(self, row: int, params: SamplingParams) -> None:
        """Set the seed of a row, taken modulo 2^64."""
        self._seeds[row] = _signed(params.seed)

    def draw(self, rows: Tensor, positions: Tensor) -> Tensor:
        """[n] float64 in [0, 1) for the [n] rows at [n] positions."""
        return uniforms(self._seeds[rows], positions)
