"""Speed of paged attention beside the floor: `python -m bough.load.kernel_bench.attention --help`.

With `--flashinfer`, beside FlashInfer; see `beside_flashinfer`.

A CUDA graph holds one launch a layer, each over a cache of its own, as a step of a model does: what one layer read is
no longer in the second-level cache when it is read again. A line of the table is the median of replays, over the
launches.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bough.kernels.gpu.attention_checks import PAGE_SIZE, AttentionShape
from bough.kernels.gpu.attention_decode import DecodeConfig, decode_config, paged_decode_attention
from bough.kernels.gpu.attention_decode_split import choose_splits, decode_workspace
from bough.kernels.gpu.attention_prefill import paged_prefill_attention
from bough.kernels.gpu.attention_prefill_plan import plan_prefill
from bough.kernels.gpu.attention_prefill_split import (
    UNCUT,
    PrefillConfig,
    PrefillSplits,
    PrefillWorkspace,
    choose_prefill_config,
    choose_prefill_splits,
)

READ_BYTES_PER_S = 4.2e12  # H200, measured with a plain read
MATRIX_FLOP_PER_S = 790e12  # H200, bfloat16, large square products
CACHE_BYTES = 400e6  # of all layers of a graph: eight times the second-level cache
MAX_LAYERS = 400
REPLAYS = 15

DECODE_SHAPES = [(1, 258), (8, 258), (64, 258), (256, 258), (1, 1024), (8, 1024), (64, 1024), (256, 1024), (1, 32_768)]
PREFILL_SHAPES = [(8, 4096), (1, 512)]
SWEEP_SHAPES = [(1, 258), (8, 258), (64, 258), (256, 258), (256, 1024), (1, 32_768)]
DECODE_CANDIDATES = [
    DecodeConfig(block_n, num_warps, num_stages)
    for block_n, num_warps, num_stages in (
        (16, 1, 3),
        (16, 1, 4),
        (16, 1, 6),
        (32, 2, 3),
        (32, 2, 4),
        (64, 4, 3),
        (64, 4, 4),
        (128, 4, 3),
    )
]
PREFILL_CANDIDATES = [
    PrefillConfig(block_m, block_n, num_warps, num_stages)
    for block_m, block_n, num_warps, num_stages in (
        (128, 128, 8, 2),
        (128, 128, 8, 3),
        (128, 64, 8, 2),
        (128, 64, 8, 3),
        (128, 64, 8, 4),
        (128, 64, 4, 3),
        (128, 32, 4, 3),
        (64, 128, 4, 2),
        (64, 64, 4, 2),
        (64, 64, 4, 3),
        (64, 32, 4, 4),
    )
]

PREFILL_SWEEP_CASES = [(2, 4096, 4096), (1, 256, 8192), (1, 512, 32_768)]
"""Lines, query tokens of each, context of each."""
WHOLE_CANDIDATES = [
    PrefillConfig(128, 128, 8, 3),
    PrefillConfig(128, 128, 8, 2),
    PrefillConfig(128, 64, 8, 3),
    PrefillConfig(128, 64, 8, 4),
    PrefillConfig(64, 64, 4, 3),
]
CHUNK_CANDIDATES = [PrefillConfig(64, 64, 4, 3), PrefillConfig(64, 64, 4, 2), PrefillConfig(128, 128, 8, 3)]


@dataclass(frozen=True)
class Heads:
    """The attention of a model."""

    name: str
    num_heads: int
    num_kv_heads: int
    head_dim: int

    def kv_bytes(self, tokens: int) -> int:
        """Bytes of keys and values of `tokens` tokens of one layer in bfloat16."""
        return 4 * tokens * self.num_kv_heads * self.head_dim


QWEN3_600M = Heads("Qwen3-0.6B", 16, 8, 128)
QWEN3_8B = Heads("Qwen3-8B", 32, 8, 128)


@dataclass(frozen=True)
class Cache:
    """Keys and values of several layers, and lines over them whose pages lie scattered."""

    layers: list[tuple[Tensor, Tensor]]
    page_table: Tensor
    rows: Tensor
    context_lens: Tensor


def make_cache(heads: Heads, contexts: list[int]) -> Cache:
    """A cache filled with noise for lines of the given contexts, on the GPU."""
    counts = [-(-context // PAGE_SIZE) for context in contexts]
    num_layers = int(min(MAX_LAYERS, max(2, CACHE_BYTES // heads.kv_bytes(sum(contexts)))))
    shape = (sum(counts), heads.num_kv_heads, PAGE_SIZE, heads.head_dim)
    pool = torch.randperm(sum(counts)).to(torch.int32)
    page_table = torch.zeros(len(contexts), max(counts), dtype=torch.int32)
    taken = 0
    for line, count in enumerate(counts):
        page_table[line, :count] = pool[taken : taken + count]
        taken += count

    def noise() -> Tensor:
        return torch.randn(shape, dtype=torch.bfloat16, device="cuda")

    return Cache(
        layers=[(noise(), noise()) for _ in range(num_layers)],
        page_table=page_table.cuda(),
        rows=torch.arange(len(contexts), dtype=torch.int32, device="cuda"),
        context_lens=torch.tensor(contexts, dtype=torch.int32, device="cuda"),
    )


def replay_us(launches: list[Callable[[], object]]) -> float:
    """Microseconds a launch: all launches in one CUDA graph, median of its replays."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch does not annotate it
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        launches[0]()  # compiled before it is captured
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for launch in launches:
            launch()
    for _ in range(3):
        graph.replay()
    events = [
        torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]  # torch does not annotate it
        for _ in range(REPLAYS + 1)
    ]
    events[0].record()
    for event in events[1:]:
        graph.replay()
        event.record()
    torch.cuda.synchronize()
    times: list[float] = [before.elapsed_time(after) for before, after in itertools.pairwise(events)]
    return statistics.median(times) * 1e3 / len(launches)


@dataclass(frozen=True)
class DecodeRun:
    """How a decode launch is made."""

    config: DecodeConfig
    num_splits: int
    min_split_tokens: int = 64
    pdl: bool = False

    def __str__(self) -> str:
        config = self.config
        cut = f"block {config.block_n:3} warps {config.num_warps} stages {config.num_stages}"
        return f"{cut} splits {self.num_splits:3} x >= {self.min_split_tokens}"


def decode_us(heads: Heads, cache: Cache, run: DecodeRun) -> float:
    """Microseconds of one layer's decode attention."""
    num_lines = len(cache.rows)
    queries = torch.randn(num_lines, heads.num_heads, heads.head_dim, dtype=torch.bfloat16, device="cuda")
    out = torch.empty_like(queries)
    workspace = decode_workspace(
        num_lines, heads.num_heads, heads.num_kv_heads, heads.head_dim, run.num_splits, queries.device
    )

    def launch_of(keys: Tensor, values: Tensor) -> Callable[[], object]:
        return lambda: paged_decode_attention(
            queries,
            keys,
            values,
            cache.page_table,
            cache.rows,
            cache.context_lens,
            scale=heads.head_dim**-0.5,
            window=None,
            out=out,
            workspace=workspace,
            num_splits=run.num_splits,
            min_split_tokens=run.min_split_tokens,
            pdl=run.pdl,
            config=run.config,
        )

    return replay_us([launch_of(keys, values) for keys, values in cache.layers])


@dataclass(frozen=True)
class PrefillRun:
    """How a prefill launch is made; no configuration takes the tuned one."""

    config: PrefillConfig | None = None
    splits: PrefillSplits = UNCUT
    pdl: bool = False

    def __str__(self) -> str:
        if self.config is None:
            return f"as chosen, splits {self.splits.most}"
        config = self.config
        tile = f"{config.block_m:3} x {config.block_n:3} warps {config.num_warps} stages {config.num_stages}"
        return f"{tile} splits {self.splits.most}"


def prefill_us(heads: Heads, cache: Cache, run: PrefillRun, tokens: int | None = None) -> float:
    """Microseconds of one layer's attention of the last `tokens` tokens of each line; None for whole prompts."""
    counts = cache.context_lens if tokens is None else torch.full_like(cache.context_lens, tokens)
    query_start = torch.cat((torch.zeros_like(counts[:1]), counts.cumsum(0).to(torch.int32)))
    num_tokens = int(query_start[-1])
    queries = torch.randn(num_tokens, heads.num_heads, heads.head_dim, dtype=torch.bfloat16, device="cuda")
    out = torch.empty_like(queries)
    rows = run.splits.most * num_tokens * heads.num_heads if run.splits.most > 1 else 0
    workspace = PrefillWorkspace(
        partials=torch.empty(rows * heads.head_dim, device="cuda"),
        tops=torch.empty(rows, device="cuda"),
        sums=torch.empty(rows, device="cuda"),
        counters=torch.zeros((num_tokens + len(counts)) * heads.num_kv_heads, dtype=torch.int32, device="cuda"),
    )

    plan = plan_prefill(
        cache.rows,
        query_start,
        cache.context_lens,
        num_tokens=num_tokens,
        shape=AttentionShape(heads.num_heads, heads.num_kv_heads, heads.head_dim),
        dtype=queries.dtype,
        splits=run.splits,
        config=run.config,
    )

    def launch_of(keys: Tensor, values: Tensor) -> Callable[[], object]:
        return lambda: paged_prefill_attention(
            queries,
            keys,
            values,
            cache.page_table,
            plan,
            scale=heads.head_dim**-0.5,
            window=None,
            out=out,
            pdl=run.pdl,
            workspace=workspace,
        )

    return replay_us([launch_of(keys, values) for keys, values in cache.layers])


def print_decode(heads: Heads, contexts: list[int], us: float, what: object) -> None:
    """One line: time, bytes read, share of the floor."""
    read = heads.kv_bytes(sum(contexts))
    shape = f"{len(contexts):3} x {contexts[0]:6}" if len(set(contexts)) == 1 else f"{len(contexts):3} x   mixed"
    share = read / READ_BYTES_PER_S * 1e6 / us
    print(f"decode  {heads.name:10} {shape} {us:9.2f} us {read / 1e6:8.1f} MB {share:6.1%}  {what}", flush=True)


def print_prefill(heads: Heads, case: tuple[int, int, int], us: float, what: object) -> None:
    """One line: time, arithmetic (what is seen, two products), share of the floor; case: lines, tokens, context."""
    lines, tokens, context = case
    seen = tokens * (context - tokens) + tokens * (tokens + 1) / 2
    flop = 4.0 * lines * seen * heads.head_dim * heads.num_heads
    share = flop / MATRIX_FLOP_PER_S * 1e6 / us
    rate = flop / us / 1e6
    shape = f"{lines:3} x {tokens:6}" + ("" if tokens == context else f" of {context:6}")
    print(f"prefill {heads.name:10} {shape:22} {us:9.2f} us {rate:7.1f} TFLOP/s {share:6.1%}  {what}", flush=True)


def table(pdl: bool) -> None:
    """The tuned configurations over all shapes."""
    num_sms = torch.cuda.get_device_properties(0).multi_processor_count
    for heads in (QWEN3_600M, QWEN3_8B):
        for lines, context in DECODE_SHAPES:
            run = DecodeRun(
                decode_config(heads.head_dim, torch.bfloat16),
                *choose_splits(lines, heads.num_kv_heads, num_sms),
                pdl=pdl,
            )
            cache = make_cache(heads, [context] * lines)
            print_decode(heads, [context] * lines, decode_us(heads, cache, run), run)
        for lines, context in PREFILL_SHAPES:
            cache = make_cache(heads, [context] * lines)
            run_whole = PrefillRun(pdl=pdl)
            print_prefill(heads, (lines, context, context), prefill_us(heads, cache, run_whole), run_whole)


def _best(results: Iterable[tuple[float, object]], count: int) -> list[tuple[float, object]]:
    return sorted(results, key=lambda result: result[0])[:count]


def _splits_to_try(filling: int) -> list[int]:
    if filling == 1:
        return [1]
    return sorted({min(max(filling * quarter // 4, 1), 128) for quarter in (1, 2, 4, 8)})


def sweep() -> None:
    """Every candidate over the main shapes; the best of each."""
    num_sms = torch.cuda.get_device_properties(0).multi_processor_count
    heads = QWEN3_8B
    for lines, context in SWEEP_SHAPES:
        cache = make_cache(heads, [context] * lines)
        splits = _splits_to_try(choose_splits(lines, heads.num_kv_heads, num_sms).num_splits)
        runs = [DecodeRun(config, n) for config in DECODE_CANDIDATES for n in splits]
        if lines == 1:
            small = [config for config in DECODE_CANDIDATES if config.block_n <= 32]
            runs += [DecodeRun(config, splits[-1], 32) for config in small]
        for us, what in _best([(decode_us(heads, cache, run), run) for run in runs], 5):
            print_decode(heads, [context] * lines, us, what)
    _sweep_long_among_short(heads)
    for lines, tokens in PREFILL_SHAPES:
        for model in (QWEN3_600M, QWEN3_8B):
            cache = make_cache(model, [tokens] * lines)
            whole = [PrefillRun(config) for config in PREFILL_CANDIDATES]
            for us, what in _best([(prefill_us(model, cache, run), run) for run in whole], 4):
                print_prefill(model, (lines, tokens, tokens), us, what)


def prefill_sweep() -> None:
    """Whole prompts in a few tiles; chunks of long contexts in a few tiles and numbers of parts."""
    num_sms = torch.cuda.get_device_properties(0).multi_processor_count
    for heads in (QWEN3_600M, QWEN3_8B):
        shape = AttentionShape(heads.num_heads, heads.num_kv_heads, heads.head_dim)
        for lines, tokens, context in PREFILL_SWEEP_CASES:
            cache = make_cache(heads, [context] * lines)
            chosen = choose_prefill_config(shape, lines * tokens, torch.bfloat16)
            splits = choose_prefill_splits(lines * tokens, shape.num_kv_heads, shape.group, chosen, num_sms)
            runs = [PrefillRun(splits=splits)]
            if tokens == context:
                runs += [PrefillRun(config) for config in WHOLE_CANDIDATES]
            else:
                runs += [
                    PrefillRun(config, PrefillSplits(parts)) for config in CHUNK_CANDIDATES for parts in (1, 2, 4, 8)
                ]
            for run in runs:
                print_prefill(heads, (lines, tokens, context), prefill_us(heads, cache, run, tokens), run)


def _sweep_long_among_short(heads: Heads) -> None:
    """What spare parts cost when nobody needs them, and save when one long line does."""
    plain = DecodeRun(decode_config(heads.head_dim, torch.bfloat16), 1, 512)
    for contexts in ([258] * 256, [8192] + [258] * 63, [8192] + [258] * 255):
        cache = make_cache(heads, contexts)
        for num_splits in (1, 4, 8):
            run = replace(plain, num_splits=num_splits)
            print_decode(heads, contexts, decode_us(heads, cache, run), run)


def main() -> None:
    """Print the table, or the best of all candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true", help="try every candidate configuration and print the best")
    parser.add_argument("--prefill-sweep", action="store_true", help="a few tiles and numbers of parts for prefill")
    parser.add_argument("--pdl", action="store_true", help="launch with programmatic dependent launch")
    parser.add_argument("--flashinfer", action="store_true", help="print FlashInfer's numbers beside ours")
    args = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA device: these numbers only mean something on the GPU")
    print(f"{torch.cuda.get_device_name()}  torch {torch.__version__}")
    if args.flashinfer:
        from bough.load.kernel_bench.beside_flashinfer import compare  # it imports this module

        compare()
    elif args.prefill_sweep:
        prefill_sweep()
    elif args.sweep:
        sweep()
    else:
        table(args.pdl)


if __name__ == "__main__":
    main()
