"""The few large entries of each line, found without sorting the vocabulary (numpy: its sort is far ahead on a CPU)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bough.executor.sampling.blocks import BLOCK, in_blocks

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All entries of each line that reach the line's bound, packed to the left in the order of ids."""

    values: Floats
    """[n, C]; -inf past the count."""
    ids: Ints
    """[n, C] token ids; 0 past the count."""
    counts: Ints
    """[n]"""


def kth_lower_bound(values: Floats, k: Ints) -> Floats:
    """A value that at least `k[i]` entries of line i reach: the k-th largest of the maxima of its blocks.

    Args:
        values: [n, V], V a multiple of `BLOCK`.
        k: [n], at least 1.

    Returns:
        [n] bounds; -inf where k exceeds the number of blocks.
    """
    num_blocks = values.shape[1] // BLOCK
    maxima = np.sort(in_blocks(torch.from_numpy(values)).amax(-1).numpy(), axis=1)
    picked = maxima[np.arange(len(k)), np.maximum(num_blocks - k, 0)]
    return np.where(k <= num_blocks, picked, np.float32(-np.inf))


def reaching(values: Floats, bounds: Floats) -> Candidates:
    """Collect the entries `values[i, v] >= bounds[i]` of [n, V] values."""
    num_lines, vocab_size = values.shape
    flat = np.flatnonzero(values >= bounds[:, None])
    lines, tokens = np.divmod(flat, vocab_size)
    counts = np.bincount(lines, minlength=num_lines)
    columns = np.arange(len(flat)) - np.repeat(np.cumsum(counts) - counts, counts)
    width = int(counts.max(initial=0))
    packed = np.full((num_lines, width), -np.inf, dtype=np.float32)
    packed[lines, columns] = values.reshape(-1)[flat]
    ids = np.zeros((num_lines, width), dtype=np.int64)
    ids[lines, columns] = tokens
    return Candidates(values=packed, ids=ids, counts=counts)
