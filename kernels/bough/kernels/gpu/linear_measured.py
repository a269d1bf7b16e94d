"""Configurations of small products that a measurement found best, on an H200, for the shapes of Qwen3-0.6B and 8B.

Printed by `python -m bough.load.kernel_bench.linear --sweep`; behind each its time and the share of 4.2 TB/s at which
it reads the weights. Of more than four rows only those are here that made steps faster than cuBLAS does.
"""

from __future__ import annotations

from bough.kernels.gpu.linear_dot import DotConfig
from bough.kernels.gpu.linear_gemv import GemvConfig

MEASURED: dict[tuple[int, int, int, bool], GemvConfig | DotConfig] = {
    # (rows at most, N, K, gated)
    (1, 4096, 1024, False): GemvConfig(block_n=8, block_k=1024, num_warps=4),  # 3.3 us, 61 %
    (4, 4096, 1024, False): GemvConfig(block_n=4, block_k=1024, num_warps=2),  # 5.9 us, 34 %
    (1, 6144, 1024, True): GemvConfig(block_n=8, block_k=1024, num_warps=4),  # 3.9 us, 76 %
    (4, 6144, 1024, True): GemvConfig(block_n=4, block_k=1024, num_warps=2),  # 8.6 us, 35 %
    (8, 6144, 1024, True): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 6.1 us, 49 %
    (16, 6144, 1024, True): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 6.1 us, 49 %
    (32, 6144, 1024, True): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 6.8 us, 44 %
    (64, 6144, 1024, True): DotConfig(block_n=64, block_k=64, splits=1, num_stages=6, num_warps=4),  # 7.5 us, 40 %
    (1, 151936, 1024, False): GemvConfig(block_n=4, block_k=512, num_warps=2),  # 71.9 us, 103 %
    (4, 151936, 1024, False): GemvConfig(block_n=4, block_k=1024, num_warps=2, max_programs=1584),  # 90.7 us, 82 %
    (1, 1024, 2048, False): GemvConfig(block_n=2, block_k=2048, num_warps=4),  # 2.2 us, 46 %
    (4, 1024, 2048, False): GemvConfig(block_n=4, block_k=2048, num_warps=8),  # 2.6 us, 38 %
    (8, 1024, 2048, False): DotConfig(block_n=64, block_k=128, splits=8, num_stages=2, num_warps=4),  # 6.5 us, 15 %
    (16, 1024, 2048, False): DotConfig(block_n=64, block_k=128, splits=8, num_stages=2, num_warps=4),  # 6.6 us, 15 %
    (32, 1024, 2048, False): DotConfig(block_n=32, block_k=128, splits=4, num_stages=4, num_warps=4),  # 7.1 us, 14 %
    (1, 1024, 3072, False): GemvConfig(block_n=4, block_k=4096, num_warps=16),  # 2.5 us, 60 %
    (4, 1024, 3072, False): GemvConfig(block_n=4, block_k=4096, num_warps=8),  # 3.8 us, 40 %
    (8, 1024, 3072, False): DotConfig(block_n=64, block_k=128, splits=8, num_stages=3, num_warps=4),  # 6.0 us, 25 %
    (16, 1024, 3072, False): DotConfig(block_n=64, block_k=128, splits=8, num_stages=3, num_warps=4),  # 6.0 us, 25 %
    (1, 4096, 4096, False): GemvConfig(block_n=2, block_k=2048, num_warps=8),  # 9.2 us, 87 %
    (4, 4096, 4096, False): GemvConfig(block_n=4, block_k=2048, num_warps=4),  # 12.6 us, 63 %
    (1, 6144, 4096, False): GemvConfig(block_n=4, block_k=2048, num_warps=8),  # 13.5 us, 89 %
    (4, 6144, 4096, False): GemvConfig(block_n=8, block_k=2048, num_warps=8),  # 26.8 us, 45 %
    (8, 6144, 4096, False): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 16.8 us, 71 %
    (16, 6144, 4096, False): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 17.3 us, 69 %
    (32, 6144, 4096, False): DotConfig(block_n=64, block_k=128, splits=1, num_stages=4, num_warps=4),  # 17.4 us, 69 %
    (1, 24576, 4096, True): GemvConfig(block_n=4, block_k=4096, num_warps=8, max_programs=396),  # 47.2 us, 102 %
    (4, 24576, 4096, True): GemvConfig(block_n=2, block_k=4096, num_warps=8, max_programs=264),  # 68.3 us, 70 %
    (8, 24576, 4096, True): DotConfig(block_n=64, block_k=64, splits=1, num_stages=6, num_warps=4),  # 51.8 us, 93 %
    (16, 24576, 4096, True): DotConfig(block_n=64, block_k=64, splits=1, num_stages=6, num_warps=4),  # 52.0 us, 92 %
    (1, 151936, 4096, False): GemvConfig(block_n=2, block_k=2048, num_warps=4),  # 271.4 us, 109 %
    (4, 151936, 4096, False): GemvConfig(block_n=2, block_k=4096, num_warps=8, max_programs=264),  # 369.3 us, 80 %
    (1, 4096, 12288, False): GemvConfig(block_n=8, block_k=2048, num_warps=8),  # 24.3 us, 99 %
    (4, 4096, 12288, False): GemvConfig(block_n=4, block_k=2048, num_warps=8),  # 30.0 us, 80 %
    (8, 4096, 12288, False): DotConfig(block_n=64, block_k=128, splits=4, num_stages=4, num_warps=4),  # 28.7 us, 84 %
}
