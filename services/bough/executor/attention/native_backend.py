"""Attention on native CPU code that reads the pages where they lie."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import LayerCache
from bough.kernels.cpu.library import Op, OpKind, Step
from bough.kernels.cpu.native import OpRunner

MAX_HEAD_DIM = 256
_BATCH_DTYPES = (
    ("tokens", torch.int64),
    ("positions", torch.int64),
    ("slots", torch.int64),
    ("query_start", torch.int32),
    ("context_lens", torch.int32),
    ("page_table", torch.int32),
    ("logit_rows", torch.int64),
)


class NativeAttention:
    """See `AttentionBackend`."""

    name = "native"

    def __init__(self, runner: OpRunner) -> None:
        self._runner = runner

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """See `AttentionBackend`."""
        return self._attend(self._store(qkv, spec, cache, batch), spec, cache, batch)

    def _store(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Norm, rotate, write keys and values; return the queries."""
        queries = qkv.new_empty(qkv.shape[0], spec.num_heads * spec.head_dim)
        op = _op(OpKind.STORE, spec, cache)
        op.weight = None if spec.query_norm is None else spec.query_norm.data_ptr()
        op.weight2 = None if spec.key_norm is None else spec.key_norm.data_ptr()
        op.table = spec.rotary.data_ptr()
        op.eps = spec.norm_eps
        self._runner.run(op, native_step(batch), {"input": qkv, "output": queries})
        return queries

    def _attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Attend to the pages of each row."""
        out = queries.new_empty(queries.shape)
        op = _op(OpKind.ATTEND, spec, cache)
        # the softmax is taken in powers of two
        op.scale = spec.scale * math.log2(math.e)
        op.window = spec.window or 0
        self._runner.run(op, native_step(batch), {"input": queries, "output": out})
        return out


def _op(kind: OpKind, spec: AttentionSpec, cache: LayerCache) -> Op:
    return Op(
        kind=kind,
        keys=cache.keys.data_ptr(),
        values=cache.values.data_ptr(),
        num_heads=spec.num_heads,
        num_kv_heads=spec.num_kv_heads,
        head_dim=spec.head_dim,
    )


def native_step(batch: ForwardBatch) -> Step:
    """The batch as native code reads it; valid as long as the batch lives.

    Raises:
        TypeError: a tensor is not of the type that `ForwardBatch` says, or not contiguous.
    """
    for name, dtype in _BATCH_DTYPES:
        tensor: Tensor = getattr(batch, name)
        if tensor.dtype != dtype or not tensor.is_contiguous():
            raise TypeError(f"ForwardBatch.{name} must be contiguous {dtype}, is {tensor.dtype}, {tensor.stride()}")
    return Step(
        num_tokens=batch.tokens.shape[0],
        num_rows=batch.context_lens.shape[0],
        num_logits=batch.logit_rows.shape[0],
        tokens=batch.tokens.data_ptr(),
        positions=batch.positions.data_ptr(),
        slots=batch.slots.data_ptr(),
        query_start=batch.query_start.data_ptr(),
        context_lens=batch.context_lens.data_ptr(),
        page_table=batch.page_table.data_ptr(),
        page_table_stride=batch.page_table.stride(0),
        logit_rows=batch.logit_rows.data_ptr(),
    )
