"""Attention of chunks by FlashInfer (Ye et al. 2025, github.com/flashinfer-ai/flashinfer) instead of our kernel.

On Hopper its kernels are those of FlashAttention-3 (Shah et al. 2024), elsewhere of FlashAttention-2. A step's work is
laid out over the multiprocessors on the host, by `plan`, and all layers run that plan. A CUDA graph cannot hold it, so
only steps that are launched one by one take it, and decodes never do.

The package is optional (`pip install 'bough[flashinfer]'`) and imported only where it is used. It compiles a kernel
when it is first needed for a dtype and head dimension, which takes minutes, and keeps it in the user's cache.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import cycle
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.attention.prefill import ChunkPages
from bough.executor.kvcache import PAGE_SIZE, LayerCache
from bough.executor.models.config import ModelConfig, ModelError

logger = logging.getLogger(__name__)

HEAD_DIMS = (64, 128, 256)

_WORKSPACE_BYTES = 128 << 20
"""What FlashInfer advises: partial results of contexts that it cuts."""
_PLANS = 5
"""Plans that may be on their way to the GPU at once; more than steps may be under way, so that none is waited for."""

_FASTER_THAN_OURS = frozenset({(9, 128)})
"""(major compute capability, head dimension) where `kernel_bench.attention --flashinfer` found FlashInfer faster."""

Wanted = Literal["auto", "triton", "flashinfer"]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadShape:
    """The heads of a model's attention layers."""

    num_heads: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    """Of queries, keys, values and output."""

    @classmethod
    def of(cls, config: ModelConfig, dtype: torch.dtype) -> HeadShape:
        """What a model has."""
        return cls(num_heads=config.num_heads, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=dtype)


class FlashInferPrefill:
    """See `PrefillPlanner`. Construction loads or compiles the kernel and runs it once.

    Args:
        shape: Of every layer that it serves.
        device: The GPU; its current stream is waited for.
    """

    def __init__(self, shape: HeadShape, device: torch.device) -> None:
        flashinfer: Any = importlib.import_module("flashinfer")
        self.kernels = "fa3" if torch.cuda.get_device_capability(device)[0] == 9 else "fa2"
        """FlashInfer's name of the kernels in use."""
        self._shape = shape
        workspace = torch.empty(_WORKSPACE_BYTES, dtype=torch.uint8, device=device)
        # `plan` copies from pinned memory of its wrapper, which a plan of a later step must leave alone until then.
        slots = [
            _Slot(
                flashinfer.BatchPrefillWithPagedKVCacheWrapper(workspace, kv_layout="HND", backend=self.kernels),
                torch.cuda.Event(),  # type: ignore[no-untyped-call]  # torch leaves it untyped
            )
            for _ in range(_PLANS)
        ]
        self._slots: Iterator[_Slot] = cycle(slots)
        self._run_once(device)

    def plan(self, chunks: ChunkPages) -> FlashInferPlan:
        """Plan a step; at most the plan of `_PLANS` steps before is waited for."""
        slot, shape = next(self._slots), self._shape
        slot.planned.synchronize()
        query_start, page_start, pages, last_page_len, context_lens = _pinned(
            chunks.query_start, chunks.page_start, chunks.pages, chunks.last_page_len, chunks.context_lens
        )
        slot.wrapper.plan(
            query_start,
            page_start,
            pages,
            last_page_len,
            shape.num_heads,
            shape.num_kv_heads,
            shape.head_dim,
            PAGE_SIZE,
            causal=True,
            sm_scale=1.0,  # times that of the layer, when it runs
            q_data_type=shape.dtype,
            # What it would else find out element by element, and copy from memory that is not pinned.
            seq_lens=context_lens,
            max_token_per_sequence=int(np.diff(chunks.query_start).max()),
        )
        slot.planned.record()
        return FlashInferPlan(slot.wrapper, chunks.first_token, chunks.first_token + chunks.num_tokens)

    def _run_once(self, device: torch.device) -> None:
        shape = self._shape
        ones = np.ones(1, np.int32)
        span = np.array([0, 1], np.int32)
        chunk = ChunkPages(
            first_token=0, query_start=span, page_start=span, pages=ones - 1, last_page_len=ones, context_lens=ones
        )
        cache = torch.zeros(1, shape.num_kv_heads, PAGE_SIZE, shape.head_dim, dtype=shape.dtype, device=device)
        queries = torch.zeros(1, shape.num_heads, shape.head_dim, dtype=shape.dtype, device=device)
        self.plan(chunk).run(queries, (cache, cache), 1.0, torch.empty_like(queries))
        torch.cuda.current_stream(device).synchronize()


@dataclass(frozen=True, slots=True)
class _Slot:
    wrapper: Any
    """BatchPrefillWithPagedKVCacheWrapper, which has no types."""
    planned: torch.cuda.Event
    """After the copies of its last plan."""


@dataclass(frozen=True, slots=True)
class FlashInferPlan:
    """See `PlannedPrefill`."""

    wrapper: Any
    first_token: int
    end_token: int

    def attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, out: Tensor) -> None:
        """Attention of the chunks' tokens."""
        self.run(queries, (cache.keys, cache.values), spec.scale, out)

    def run(self, queries: Tensor, cache: tuple[Tensor, Tensor], scale: float, out: Tensor) -> None:
        """The same over keys and values, each [num_pages, kv_heads, 16, D]."""
        part = slice(self.first_token, self.end_token)
        # Not launched early (enable_pdl): it does not wait for kernels that our own ones let it overtake.
        self.wrapper.run(queries[part], cache, q_scale=scale, out=out[part], enable_pdl=False)


def choose_prefill(
    wanted: Wanted, config: ModelConfig, dtype: torch.dtype, device: torch.device
) -> FlashInferPrefill | None:
    """The planner for a model; None where all chunks are for our own kernel.

    Args:
        wanted: the setting `attention_prefill`.
        config: of the model.
        dtype: of activations and cache.
        device: the GPU.

    Raises:
        ModelError: FlashInfer is asked for by name, and is not installed or cannot be used.
    """
    if wanted == "triton":
        return None
    by_name = wanted == "flashinfer"
    if find_spec("flashinfer") is None:
        if by_name:
            raise ModelError(
                "attention_prefill = 'flashinfer': FlashInfer is not installed (pip install 'bough[flashinfer]'); "
                "'auto' and 'triton' do without"
            )
        return None
    if (refused := _refused(config, dtype)) is not None:
        logger.log(logging.WARNING if by_name else logging.DEBUG, "prefill attention by Triton: FlashInfer %s", refused)
        return None
    if not by_name and not is_faster(torch.cuda.get_device_capability(device)[0], config.head_dim):
        return None
    logger.info("prefill attention: loading FlashInfer's kernel; the first time it is compiled, which takes minutes")
    try:
        planner = FlashInferPrefill(HeadShape.of(config, dtype), device)
    except Exception as error:
        # Its own errors, the compiler's and the loader's have no common type.
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if by_name:
            raise ModelError(f"attention_prefill = 'flashinfer': FlashInfer cannot be used: {reason}") from error
        logger.warning("prefill attention by Triton: FlashInfer cannot be used: %s", reason)
        return None
    windows = sum(window is not None for window in config.windows)
    logger.info(
        "prefill attention of large steps by FlashInfer (%s)%s",
        planner.kernels,
        f", of the {windows} layers with a window by Triton" if windows else "",
    )
    return planner


def is_faster(major: int, head_dim: int) -> bool:
    """Whether FlashInfer has been measured to be faster than our kernel on large steps.

    Args:
        major: compute capability.
        head_dim: one of `HEAD_DIMS`.
    """
    return (major, head_dim) in _FASTER_THAN_OURS


def _refused(config: ModelConfig, dtype: torch.dtype) -> str | None:
    """What keeps FlashInfer from serving a model; None if nothing does."""
    if dtype != torch.bfloat16:
        return f"takes no {str(dtype).removeprefix('torch.')}"
    if config.head_dim not in HEAD_DIMS:
        return f"takes no head_dim of {config.head_dim}"
    if None not in config.windows:
        return "is not used for layers with a window, and this model has no other"
    return None


def _pinned(*parts: np.ndarray) -> list[Tensor]:
    """The arrays, int32, in one piece of pinned memory, which torch keeps until copies from it have been made."""
    packed = torch.from_numpy(np.concatenate(parts)).pin_memory()
    return list(torch.split(packed, [len(part) for part in parts]))
