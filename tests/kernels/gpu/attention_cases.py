"""Caches, page tables and queries that the tests of the attention kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypedDict, Unpack
from unittest.mock import patch

import numpy as np
import torch
import triton.language as tl
import triton.runtime.interpreter as interpreter
from torch import Tensor

from bough.kernels.gpu.attention_checks import PAGE_SIZE, AttentionShape
from bough.kernels.gpu.attention_decode import DecodeConfig, paged_decode_attention
from bough.kernels.gpu.attention_decode_split import DecodeWorkspace, decode_workspace
from bough.kernels.gpu.attention_prefill_plan import PrefillPlan, plan_prefill
from bough.kernels.gpu.attention_prefill_split import UNCUT, PrefillConfig, PrefillSplits
from bough.kernels.gpu.attention_reference import paged_attention_reference
from bough.kernels.gpu.attention_shared import SharedPrefixes

SENTINEL = 7.0


@contextmanager
def mended_interpreter() -> Iterator[None]:
    """Two things that the interpreter of Triton 3.6 does unlike a GPU, put right; without effect on a GPU.

    It multiplies matrices of bfloat16, which it holds as uint16, as if they were integers. And it rounds a product
    before it subtracts from it, where the compiler makes both one fused multiply-add that rounds once.
    """
    dot = interpreter.InterpreterBuilder.create_dot
    multiply = interpreter.InterpreterBuilder.create_fmul
    subtract = interpreter.InterpreterBuilder.create_fsub

    def wide(operand: Any) -> Any:
        if operand.dtype != tl.bfloat16:
            return operand
        return interpreter.TensorHandle((operand.data.astype(np.uint32) << 16).view(np.float32), tl.float32)

    def dot_of_floats(self: Any, a: Any, b: Any, *rest: Any) -> Any:
        return dot(self, wide(a), wide(b), *rest)

    def multiply_exactly(self: Any, a: Any, b: Any) -> Any:
        product = multiply(self, a, b)
        if a.dtype.scalar == tl.float32:
            product.attr["exact"] = np.multiply(a.data, b.data, dtype=np.float64)
        return product

    def fused_subtract(self: Any, a: Any, b: Any) -> Any:
        if "exact" not in a.attr:
            return subtract(self, a, b)
        return interpreter.TensorHandle((a.attr["exact"] - b.data).astype(np.float32), a.dtype.scalar)

    with (
        patch.object(interpreter.InterpreterBuilder, "create_dot", dot_of_floats),
        patch.object(interpreter.InterpreterBuilder, "create_fmul", multiply_exactly),
        patch.object(interpreter.InterpreterBuilder, "create_fsub", fused_subtract),
    ):
        yield


@dataclass
class AttentionCase:
    """Lines over a shuffled cache; whatever no line may read is NaN."""

    queries: Tensor  # [T, H, D]
    keys: Tensor  # [pages, kv_heads, 16, D]
    values: Tensor
    page_table: Tensor  # [max_rows, max_pages]
    rows: Tensor  # [B]
    query_start: Tensor  # [B + 1]
    context_lens: Tensor  # [B]
    window: int | None

    def overwrite(self, other: AttentionCase) -> None:
        """Take over what another case of the same shapes holds, in place."""
        for name in ("queries", "keys", "values", "page_table", "rows", "query_start", "context_lens"):
            getattr(self, name).copy_(getattr(other, name))

    @property
    def scale(self) -> float:
        return float(self.queries.shape[-1] ** -0.5)

    def expected(self, dtype: torch.dtype = torch.float64) -> Tensor:
        return paged_attention_reference(
            self.queries,
            self.keys,
            self.values,
            self.page_table,
            self.rows,
            self.query_start,
            self.context_lens,
            scale=self.scale,
            window=self.window,
            dtype=dtype,
        )


def make_case(
    lines: list[tuple[int, int]],
    device: torch.device,
    *,
    heads: tuple[int, int] = (4, 2),
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    window: int | None = None,
    padding_tokens: int = 0,
) -> AttentionCase:
    """A case of lines (query tokens, context), each with its own pages in random order.

    Slots behind a context, pages of no line and, with a window, whole pages before the first token that is seen are
    NaN; page numbers that must not be used point far outside the cache.
    """
    random = torch.Generator().manual_seed(0)
    num_heads, num_kv_heads = heads
    num_pages = [-(-context // PAGE_SIZE) for _, context in lines]
    spare = 3
    pool = torch.randperm(sum(num_pages) + spare, generator=random).to(torch.int32)
    shape = (len(pool), num_kv_heads, PAGE_SIZE, head_dim)
    keys = torch.full(shape, float("nan"))
    values = torch.full(shape, float("nan"))
    rows = torch.randperm(len(lines) + 2, generator=random)[: len(lines)].to(torch.int32)
    page_table = torch.full((len(lines) + 2, max(num_pages, default=0) + 2), 2**30, dtype=torch.int32)
    taken = 0
    for row, count, (num_queries, context) in zip(rows.tolist(), num_pages, lines, strict=True):
        pages = pool[taken : taken + count]
        taken += count
        first_seen = 0 if window is None else max(context - num_queries + 1 - window, 0)
        for index in range(first_seen // PAGE_SIZE, count):
            page = int(pages[index])
            page_table[row, index] = page
            filled = min(PAGE_SIZE, context - index * PAGE_SIZE)
            for cache in (keys, values):
                cache[page, :, :filled] = torch.randn(num_kv_heads, filled, head_dim, generator=random)
    query_start = torch.tensor([0, *(n for n, _ in lines)]).cumsum(0).to(torch.int32)
    queries = torch.randn(int(query_start[-1]) + padding_tokens, num_heads, head_dim, generator=random)
    return AttentionCase(
        queries=queries.to(device, dtype),
        keys=keys.to(device, dtype),
        values=values.to(device, dtype),
        page_table=page_table.to(device),
        rows=rows.to(device),
        query_start=query_start.to(device),
        context_lens=torch.tensor([context for _, context in lines], dtype=torch.int32, device=device),
        window=window,
    )


def plan_of(case: AttentionCase, *, splits: PrefillSplits = UNCUT, config: PrefillConfig | None = None) -> PrefillPlan:
    """The plan of the case's lines for prefill attention."""
    num_tokens, num_heads, head_dim = case.queries.shape
    return plan_prefill(
        case.rows,
        case.query_start,
        case.context_lens,
        num_tokens=num_tokens,
        shape=AttentionShape(num_heads, case.keys.shape[1], head_dim),
        dtype=case.queries.dtype,
        splits=splits,
        config=config,
    )


def decodes(*contexts: int) -> list[tuple[int, int]]:
    """Lines of one query token each."""
    return [(1, context) for context in contexts]


def room_for_decodes(case: AttentionCase, num_splits: int) -> DecodeWorkspace:
    """A workspace for decode attention of the case's lines."""
    num_lines, num_heads, head_dim = case.queries.shape
    return decode_workspace(num_lines, num_heads, case.keys.shape[1], head_dim, num_splits, case.queries.device)


class DecodeOptions(TypedDict, total=False):
    """Of `attend_decodes`."""

    min_split_tokens: int
    config: DecodeConfig | None
    pdl: bool
    shared: SharedPrefixes | None


def attend_decodes(
    case: AttentionCase,
    *,
    num_splits: int = 1,
    workspace: DecodeWorkspace | None = None,
    out: Tensor | None = None,
    **options: Unpack[DecodeOptions],
) -> Tensor:
    """Decode attention of the case's lines; what it does not write is `SENTINEL`."""
    options.setdefault("min_split_tokens", 16)
    with mended_interpreter():
        return paged_decode_attention(
            case.queries,
            case.keys,
            case.values,
            case.page_table,
            case.rows,
            case.context_lens,
            scale=case.scale,
            window=case.window,
            out=torch.full_like(case.queries, SENTINEL) if out is None else out,
            workspace=workspace or room_for_decodes(case, num_splits),
            num_splits=num_splits,
            **options,
        )


def captured(launch: Callable[[], object], device: torch.device) -> Callable[[], object]:
    """The launch as a CUDA graph that can be replayed; without a GPU the launch itself."""
    if device.type == "cpu":
        return launch
    launch()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch()
    return graph.replay


def assert_close(actual: Tensor, expected: Tensor) -> None:
    """Float32 within 1e-5; bfloat16 and float16 within two units of their last place near 1."""
    tolerance = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}[actual.dtype]
    torch.testing.assert_close(actual.double(), expected, atol=tolerance, rtol=tolerance)
