"""Attention in plain torch: pages gathered, then scaled dot products. The reference, and the way without a compiler."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.kvcache import LayerCache
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels


class TorchAttention:
    """See `AttentionBackend`."""

    name = "torch"

    def __init__(self) -> None:
        self._kernels = TorchKernels()

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """See `AttentionBackend`."""
        return self._attend(self._store(qkv, spec, cache, batch), spec, cache, batch)

    def _store(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Norm, rotate, write keys and values; return the queries."""
        heads, kv_heads, head_dim = spec.num_heads, spec.num_kv_heads, spec.head_dim
        q, k, v = qkv.view(-1, heads + 2 * kv_heads, head_dim).tensor_split((heads, heads + kv_heads), dim=1)
        if spec.query_norm is not None:
            q = self._kernels.rms_norm(q, Norm(spec.query_norm, spec.norm_eps))
        if spec.key_norm is not None:
            k = self._kernels.rms_norm(k, Norm(spec.key_norm, spec.norm_eps))
        cos, sin = spec.rotary[batch.positions].unsqueeze(1).chunk(2, dim=-1)
        cache.write(rotate(k, cos, sin), v, batch.slots)
        return rotate(q, cos, sin).reshape(-1, heads * head_dim)

    def _attend(self, queries: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """Decode rows in one padded batch, every longer row on its own."""
        q = queries.view(-1, spec.num_heads, spec.head_dim)
        num_decodes = batch.num_decode_rows
        parts = []
        if num_decodes:
            parts.append(_attend_decodes(q[:num_decodes], spec, cache, batch))
        starts = batch.query_start.tolist()
        for row in range(num_decodes, batch.num_rows):
            context_len = int(batch.context_lens[row])
            pages = batch.page_table[row, : -(-context_len // cache.page_size)]
            parts.append(_attend_row(q[starts[row] : starts[row + 1]], context_len, pages, spec, cache))
        return torch.cat(parts).view(queries.shape)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of heads [T, H, D] by cos and sin [T, 1, D / 2], in float32 inside."""
    first, second = x.float().chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(x.dtype)


def _attend_decodes(q: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
    """One query token in each row; q is [B, H, D]."""
    lens = batch.context_lens[: q.shape[0]].unsqueeze(1)  # [B, 1]
    page_size = cache.page_size
    num_pages = -(-int(lens.max()) // page_size)
    keys, values = cache.gather(batch.page_table[: q.shape[0], :num_pages])
    at = torch.arange(num_pages * page_size)
    visible = at < lens
    if spec.window is not None:
        visible &= at >= lens - spec.window
    # A mask adds -inf to scores and weighs values with 0: NaN, which may lie there from before, would survive both.
    keys, values = (part.masked_fill(~visible[:, None, :, None], 0) for part in (keys, values))
    out = F.scaled_dot_product_attention(
        q.unsqueeze(2), keys, values, attn_mask=visible[:, None, None], scale=spec.scale, enable_gqa=True
    )
    return out.squeeze(2)


def _attend_row(q: Tensor, context_len: int, pages: Tensor, spec: AttentionSpec, cache: LayerCache) -> Tensor:
    """The last tokens of one row; q is [n, H, D]."""
    keys, values = cache.gather(pages)
    keys, values = keys[:, :context_len], values[:, :context_len]
    positions = torch.arange(context_len - q.shape[0], context_len).unsqueeze(1)
    at = torch.arange(context_len)
    visible = at <= positions
    if spec.window is not None:
        visible &= at > positions - spec.window
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1).unsqueeze(0),
        keys.unsqueeze(0),
        values.unsqueeze(0),
        attn_mask=visible,
        scale=spec.scale,
        enable_gqa=True,
    )
    return out.squeeze(0).transpose(0, 1)
