"""Which kernel a product of few rows takes, and how its work is cut: a pure function of the shape, for one H200.

Nothing is tuned at run time: two processes on one machine compute the same bits.
`python -m bough.load.kernel_bench.linear --sweep` measures the candidates below and prints entries for the table.
"""

from __future__ import annotations

import triton

from bough.kernels.gpu import linear_dot, linear_gemv
from bough.kernels.gpu.linear_dot import DotConfig
from bough.kernels.gpu.linear_gemv import GemvConfig
from bough.kernels.gpu.linear_measured import MEASURED

NUM_SMS = 132
MAX_ROWS = linear_dot.MAX_ROWS
_BUCKETS = (1, 2, 4, 8, 16, 32, 64)


def bucket(rows: int) -> int:
    """The number of rows that a configuration is chosen for: `rows` rounded up to a power of two."""
    for bound in _BUCKETS:
        if rows <= bound:
            return bound
    raise ValueError(f"{rows} rows are more than {MAX_ROWS}")


def pays(rows: int, num_outputs: int, depth: int, gated: bool = False) -> bool:
    """Whether a product is faster than cuBLAS within a step: all of few rows, and what was measured to be."""
    if rows <= linear_gemv.MAX_ROWS:
        return True
    return rows <= MAX_ROWS and (bucket(rows), num_outputs, depth, gated) in MEASURED


def choose_config(rows: int, num_outputs: int, depth: int, gated: bool = False) -> GemvConfig | DotConfig:
    """The configuration for x [rows, depth] and a weight [num_outputs, depth].

    Rows of one bucket share it, so that the bits of a row do not depend on how many rows lie beside it within the
    bucket.

    Raises:
        ValueError: more than `MAX_ROWS` rows.
    """
    bound = bucket(rows)
    measured = MEASURED.get((bound, num_outputs, depth, gated))
    if measured is not None:
        return measured
    if bound <= linear_gemv.MAX_ROWS:
        return _gemv_by_rule(bound, num_outputs, depth)
    return _dot_by_rule(bound, num_outputs, depth)


def _gemv_by_rule(bound: int, num_outputs: int, depth: int) -> GemvConfig:
    """The whole depth at once if it fits in registers; tiles of 8 KB or less; two 16-byte loads a thread and row."""
    block_k = min(max(triton.next_power_of_2(depth), 128), 4096)
    num_warps = min(max(block_k // 256, 1), 8)
    block_n = 4 if num_outputs * depth >= 1 << 22 else 2
    if bound > 1 or triton.cdiv(num_outputs, block_n) <= 64 * NUM_SMS:
        return GemvConfig(block_n, block_k, num_warps)
    # a vocabulary: programs that live long spare the start of a hundred waves of them, if all of them run at once (at
    # more rows they need too many registers for that)
    return GemvConfig(min(8, num_warps * 32 * 64 // block_k), block_k, num_warps, _resident(24, num_warps))


def _resident(warps_per_sm: int, num_warps: int) -> int:
    """Programs of the device at so many warps an SM."""
    return NUM_SMS * (warps_per_sm // num_warps)


def _dot_by_rule(bound: int, num_outputs: int, depth: int) -> DotConfig:
    """About three programs an SM, by splitting K where tiles are too few; a split has at least two chunks."""
    block_n = 128 if bound > 32 and num_outputs >= 128 * 2 * NUM_SMS // 3 else 64
    block_k = 128 if depth >= 256 else 64
    tiles, chunks = triton.cdiv(num_outputs, block_n), triton.cdiv(depth, block_k)
    splits = 1
    while tiles * splits * 2 <= 4 * NUM_SMS and chunks >= 4 * splits and splits < 8:
        splits *= 2
    # no more stages than a split has chunks: shared memory is what bounds the programs of an SM
    num_stages = min(4 if bound <= 32 else 3, max(2, chunks // splits))
    return DotConfig(block_n, block_k, splits, num_stages)


def candidates(rows: int, num_outputs: int, depth: int) -> list[GemvConfig | DotConfig]:
    """Configurations that a sweep should try for the shape."""
    bound = bucket(rows)
    found: list[GemvConfig | DotConfig] = []
    if bound <= linear_gemv.MAX_ROWS:
        full = min(triton.next_power_of_2(depth), 4096)
        for block_k in {full, full // 2}:
            for num_warps in {max(block_k // 512, 2), max(block_k // 256, 2)}:
                for block_n in (2, 4, 8):
                    if block_n * block_k <= num_warps * 32 * 64:
                        found.append(GemvConfig(block_n, block_k, num_warps))
                        if num_outputs // block_n > 32 * NUM_SMS:
                            found += [
                                GemvConfig(block_n, block_k, num_warps, _resident(n, num_warps)) for n in (16, 24)
                            ]
        return found
    # narrow tiles, on the older tensor core instruction, where N alone gives too few programs
    widths = (32, 64) if num_outputs <= 2048 else (64,) if bound < 32 else (64, 128)
    for block_n in widths:
        for block_k, most_stages in ((64, 6), (128, 3 if bound > 32 else 4)):
            tiles, chunks = triton.cdiv(num_outputs, block_n), triton.cdiv(depth, block_k)
            for splits in (1, 2, 4, 8):
                num_stages = min(most_stages, max(2, chunks // splits))
                enough = tiles * splits >= NUM_SMS // 2 or chunks < 4 * splits
                if enough and (splits == 1 or (chunks >= 2 * splits and tiles * splits <= 6 * NUM_SMS)):
                    found.append(DotConfig(block_n, block_k, splits, num_stages))
    return found
