"""Attention and filters of sampling beside FlashInfer's: `python -m bough.load.kernel_bench.attention --flashinfer`.

Times are of a CUDA graph on both sides. What FlashInfer plans on the host before a step, and no graph holds, is given
in microseconds of the host; of prefills with all that our executor does around it.
"""

from __future__ import annotations

import importlib
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from bough.executor.attention.flashinfer_backend import FlashInferPrefill, HeadShape
from bough.executor.attention.prefill import ChunkPages
from bough.kernels.gpu.attention_checks import PAGE_SIZE
from bough.kernels.gpu.attention_decode import decode_config
from bough.kernels.gpu.attention_decode_split import choose_splits
from bough.kernels.gpu.sampling import SamplingWorkspace
from bough.load.kernel_bench import sampling
from bough.load.kernel_bench.attention import (
    QWEN3_8B,
    QWEN3_600M,
    Cache,
    DecodeRun,
    Heads,
    PrefillRun,
    decode_us,
    make_cache,
    prefill_us,
    replay_us,
)
from bough.load.kernel_bench.linear import graph_us

PREFILLS = [(1, 4096, 4096), (2, 4096, 4096), (8, 1024, 1024), (16, 512, 512), (1, 2048, 8192)]
"""Lines, query tokens of each, context of each."""
DECODES = [(1, 258), (64, 258), (256, 258), (64, 2048)]
"""Lines, context of each."""
SAMPLED_LINES = (64, 256)
FILTERS = ("top-k 50", "top-p 0.9", "top-k 50, top-p 0.9")
"""Of `sampling.VARIANTS`."""

_PLANS = 20
_WORKSPACE_BYTES = 128 << 20
_DEVICE = torch.device("cuda")


@dataclass(frozen=True)
class Prefill:
    """Lines alike: the last `tokens` of `context` tokens each are computed."""

    heads: Heads
    lines: int
    tokens: int
    context: int

    def __str__(self) -> str:
        name = f"{self.lines} x {self.tokens}"
        return name if self.tokens == self.context else f"{name} of {self.context}"

    @property
    def flop(self) -> float:
        """Of the two products, for what is seen alone."""
        seen = self.tokens * (self.context - self.tokens) + self.tokens * (self.tokens + 1) / 2
        return 4.0 * self.lines * seen * self.heads.head_dim * self.heads.num_heads

    def chunks(self, cache: Cache) -> ChunkPages:
        """What the planner is given."""
        num_pages = -(-self.context // PAGE_SIZE)
        ones = np.ones(self.lines, np.int32)
        steps = np.arange(self.lines + 1, dtype=np.int32)
        return ChunkPages(
            first_token=0,
            query_start=steps * np.int32(self.tokens),
            page_start=steps * np.int32(num_pages),
            pages=cache.page_table[:, :num_pages].flatten().cpu().numpy(),
            last_page_len=ones * np.int32((self.context - 1) % PAGE_SIZE + 1),
            context_lens=ones * np.int32(self.context),
        )


def _host_us(work: Callable[[], object]) -> float:
    """Median time of the host in microseconds while the GPU has nothing to do."""
    times = []
    for _ in range(_PLANS):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    torch.cuda.synchronize()
    return statistics.median(times) * 1e6


def prefill(case: Prefill, planner: FlashInferPrefill) -> tuple[float, float, float]:
    """Microseconds a layer: ours, FlashInfer's; and of the host for a plan."""
    heads = case.heads
    cache = make_cache(heads, [case.context] * case.lines)
    ours_us = prefill_us(heads, cache, PrefillRun(), case.tokens)
    shape = (case.lines * case.tokens, heads.num_heads, heads.head_dim)
    queries = torch.randn(shape, dtype=torch.bfloat16, device=_DEVICE)
    out, scale = torch.empty_like(queries), heads.head_dim**-0.5
    chunks = case.chunks(cache)
    plan_us = _host_us(lambda: planner.plan(chunks))
    planned = planner.plan(chunks)
    launches: list[Callable[[], object]] = [partial(planned.run, queries, layer, scale, out) for layer in cache.layers]
    return ours_us, replay_us(launches), plan_us


def decode(heads: Heads, lines: int, context: int) -> Iterator[tuple[str, float, float]]:
    """Ours and FlashInfer's two kernels: name, microseconds a layer, microseconds of the host for a plan."""
    flashinfer: Any = importlib.import_module("flashinfer")
    cache = make_cache(heads, [context] * lines)
    splits = choose_splits(lines, heads.num_kv_heads, torch.cuda.get_device_properties(0).multi_processor_count)
    yield "ours", decode_us(heads, cache, DecodeRun(decode_config(heads.head_dim, torch.bfloat16), *splits)), 0.0
    num_pages = -(-context // PAGE_SIZE)
    host = (
        torch.arange(lines + 1, dtype=torch.int32) * num_pages,
        cache.page_table[:, :num_pages].flatten().cpu(),
        torch.full((lines,), (context - 1) % PAGE_SIZE + 1, dtype=torch.int32),
    )
    arrays = [part.pin_memory() for part in host]
    queries = torch.randn(lines, heads.num_heads, heads.head_dim, dtype=torch.bfloat16, device=_DEVICE)
    out = torch.empty_like(queries)
    for name, use_tensor_cores in (("plain", False), ("tensor cores", True)):
        workspace = torch.zeros(_WORKSPACE_BYTES, dtype=torch.uint8, device=_DEVICE)
        wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
            workspace, kv_layout="HND", use_tensor_cores=use_tensor_cores
        )

        def plan(wrapper: Any = wrapper) -> None:
            shape = (heads.num_heads, heads.num_kv_heads, heads.head_dim, PAGE_SIZE)
            wrapper.plan(*arrays, *shape, q_data_type=torch.bfloat16)

        plan()
        plan_us = _host_us(plan)
        launches: list[Callable[[], object]] = [partial(wrapper.run, queries, layer, out=out) for layer in cache.layers]
        yield name, replay_us(launches), plan_us


def print_attention() -> None:
    """Both tables of attention."""
    print(f"{'prefill':28}{'ours':>10}{'FlashInfer':>12}{'':8}{'plan, host us':>14}")
    for heads in (QWEN3_600M, QWEN3_8B):
        shape = HeadShape(
            num_heads=heads.num_heads,
            num_kv_heads=heads.num_kv_heads,
            head_dim=heads.head_dim,
            dtype=torch.bfloat16,
        )
        planner = FlashInferPrefill(shape, _DEVICE)
        for case in (Prefill(heads, *numbers) for numbers in PREFILLS):
            ours, theirs, plan = prefill(case, planner)
            rates = f"{case.flop / ours / 1e6:10.0f}{case.flop / theirs / 1e6:12.0f} TFLOP/s"
            print(f"{heads.name:12}{case!s:16}{rates}{plan:14.0f}   {planner.kernels}", flush=True)
    print(f"\n{'decode':28}us a layer (host us of a plan)")
    for heads in (QWEN3_600M, QWEN3_8B):
        for lines, context in DECODES:
            found = [
                f"{name} {us:.1f}" + (f" ({plan:.0f})" if plan else "")
                for name, us, plan in decode(heads, lines, context)
            ]
            print(f"{heads.name:12}{f'{lines} x {context}':16}{'   '.join(found)}", flush=True)


def print_sampling() -> None:
    """Filtering and drawing at the vocabulary of Qwen3; FlashInfer's renormalization is its deterministic one."""
    flashinfer: Any = importlib.import_module("flashinfer")
    of: Any = flashinfer.sampling
    workspace = SamplingWorkspace(max(SAMPLED_LINES), sampling.VOCAB_SIZE, _DEVICE)
    ring = torch.zeros(8, max(SAMPLED_LINES), dtype=torch.int64, pin_memory=True)
    print("\nsampling, us; FlashInfer's filters alone, and with a draw that is not ours")
    for lines in SAMPLED_LINES:
        logits = torch.randn(lines, sampling.VOCAB_SIZE, device=_DEVICE) * sampling.LOGITS["peaked"]
        probs = logits.softmax(-1)
        for name in FILTERS:
            case = sampling.Case(logits, sampling.VARIANTS[name], workspace, ring)
            print(f"{lines:4} lines  ours, {name + ', drawn':38}{case.microseconds():9.1f}", flush=True)
        theirs: dict[str, Callable[[], object]] = {
            "top_k_mask_logits 50": partial(of.top_k_mask_logits, logits, 50),
            "softmax": partial(of.softmax, logits, enable_pdl=False),
            "top_p_renorm_probs 0.9": partial(of.top_p_renorm_probs, probs, 0.9, is_deterministic=True),
            "top_k_top_p_sampling_from_logits": partial(
                of.top_k_top_p_sampling_from_logits, logits, 50, 0.9, seed=1, offset=0
            ),
        }
        for name, launch in theirs.items():
            print(f"{lines:4} lines  FlashInfer, {name:32}{_graph_us(launch):9.1f}", flush=True)


def _graph_us(launch: Callable[[], object]) -> float:
    def work() -> None:
        launch()

    return graph_us(work)


def compare() -> None:
    """Print all tables."""
    with torch.inference_mode():
        print_attention()
        print_sampling()
