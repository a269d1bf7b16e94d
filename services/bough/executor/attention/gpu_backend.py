"""Attention on the GPU by Triton kernels that read the pages where they lie."""

from __future__ import annotations

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.gpu.batch import GpuBatch
from bough.executor.kvcache import LayerCache
from bough.kernels.gpu.attention_decode import paged_decode_attention, projected_decode_attention
from bough.kernels.gpu.attention_decode_split import DecodeWorkspace
from bough.kernels.gpu.attention_heads import HeadOperands
from bough.kernels.gpu.attention_prefill import paged_prefill_attention
from bough.kernels.gpu.attention_prefill_split import PrefillWorkspace
from bough.kernels.gpu.rope import norm_rope_store

_PROJECTED_LINES = 16
"""Decodes up to which attention norms, rotates and writes as well. A launch less is worth more than what it adds to
attention, which grows with the lines: 64 of 600 tokens lost 2 % of a step of Qwen3-0.6B."""


class GpuAttention:
    """See `AttentionBackend`; takes `GpuBatch` only.

    Args:
        workspace: For the decodes of the largest step.
        prefill_workspace: For the chunks of every step that cuts contexts.
    """

    name = "triton"

    def __init__(self, workspace: DecodeWorkspace, prefill_workspace: PrefillWorkspace) -> None:
        self._workspace = workspace
        self._prefill_workspace = prefill_workspace

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """See `AttentionBackend`; a step of few decodes alone in one launch."""
        assert isinstance(batch, GpuBatch)
        alone = batch.shared is None or spec.window is not None
        if batch.chunks is None and alone and qkv.shape[0] <= _PROJECTED_LINES:
            return self._attend_projected(qkv, spec, cache, batch)
        return self._attend(self._store(qkv, spec, cache, batch), spec, cache, batch)

    def _attend_projected(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: GpuBatch) -> Tensor:
        out = torch.empty((qkv.shape[0], spec.num_heads, spec.head_dim), dtype=qkv.dtype, device=qkv.device)
        projected_decode_attention(
            qkv,
            cache.keys,
            cache.values,
            batch.page_table,
            batch.rows,
            batch.decode_lens,
            heads=HeadOperands(spec.rotary, spec.query_norm, spec.key_norm, spec.norm_eps),
            scale=spec.scale,
            window=spec.window,
            out=out,
            workspace=self._workspace,
            num_splits=batch.splits.num_splits,
            min_split_tokens=batch.splits.min_tokens,
        )
        return out.view(qkv.shape[0], -1)

    def _store(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Norm, rotate, write keys and values; return the queries."""
        return norm_rope_store(
            qkv,
            batch.positions,
            batch.slots,
            spec.rotary,
            spec.query_norm,
            spec.key_norm,
            spec.norm_eps,
            cache.keys,
            cache.values,
            spec.num_heads,
        )

    def _attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, batch: GpuBatch) -> Tensor:
        """Decode lines and chunks, each by their own kernel; chunks by the step's plan where it has one."""
        heads = queries.view(-1, spec.num_heads, spec.head_dim)
        out = torch.empty_like(heads)
        lines = batch.num_decode_rows
        if lines:
            paged_decode_attention(
                heads[:lines],
                cache.keys,
                cache.values,
                batch.page_table,
                batch.rows[:lines],
                batch.decode_lens[:lines],
                scale=spec.scale,
                window=spec.window,
                out=out[:lines],
                workspace=self._workspace,
                num_splits=batch.splits.num_splits,
                min_split_tokens=batch.splits.min_tokens,
                shared=batch.shared if spec.window is None else None,
            )
        if batch.planned is not None and spec.window is None:
            batch.planned.attend(heads, spec, cache, out)
        elif batch.chunks is not None:
            paged_prefill_attention(
                heads,
                cache.keys,
                cache.values,
                batch.page_table,
                batch.chunks,
                scale=spec.scale,
                window=spec.window,
                out=out,
                workspace=self._prefill_workspace,
            )
        return out.view(queries.shape)
