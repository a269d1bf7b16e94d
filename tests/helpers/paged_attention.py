"""The attention of a `GpuBatch` in plain torch: no kernel, and nothing that a CUDA graph could not hold."""

from __future__ import annotations

import torch
from torch import Tensor

from bough.executor.attention.base import AttentionSpec
from bough.executor.batch import ForwardBatch
from bough.executor.gpu.batch import GpuBatch
from bough.executor.gpu.kvcache import PagedLayerCache
from bough.executor.kvcache import LayerCache
from bough.kernels.gpu.attention_shared import SharedPrefixes
from bough.kernels.interface import Norm
from bough.kernels.reference import TorchKernels


class PagedTorchAttention:
    """See `AttentionBackend`; takes `GpuBatch` only, and believes all that it says of lines and prefixes."""

    name = "paged torch"

    def attend(self, qkv: Tensor, spec: AttentionSpec, cache: LayerCache, batch: ForwardBatch) -> Tensor:
        """See `AttentionBackend`."""
        assert isinstance(batch, GpuBatch) and isinstance(cache, PagedLayerCache)
        heads = qkv.view(qkv.shape[0], -1, spec.head_dim)
        keys, values = heads[:, spec.num_heads :].chunk(2, dim=1)
        turns = spec.rotary[batch.positions].unsqueeze(1)
        queries = _rotated(_normed(heads[:, : spec.num_heads], spec.query_norm, spec.norm_eps), turns)
        _write(cache, _rotated(_normed(keys, spec.key_norm, spec.norm_eps), turns), values, batch.slots)
        lines, lengths = _lines_of(batch)
        pages = batch.page_table[batch.rows[lines].long()].long()
        if batch.shared is not None and spec.window is None:
            pages = _with_shared(pages, lines, batch, batch.shared, cache.page_size)
        seen_keys, seen_values = cache.gather(pages)
        seen = torch.arange(seen_keys.shape[-2]) < lengths.unsqueeze(1)
        if spec.window is not None:
            seen = seen & (torch.arange(seen_keys.shape[-2]) >= lengths.unsqueeze(1) - spec.window)
        group = spec.num_heads // spec.num_kv_heads
        scores = queries.unsqueeze(2) @ seen_keys.repeat_interleave(group, 1).transpose(-1, -2) * spec.scale
        weights = torch.where(seen[:, None, None], scores, -1e30).softmax(-1)
        # a page that is not full may hold what is not a number behind its end, and 0 times that is none either
        seen_values = torch.where(seen[:, None, :, None], seen_values, 0.0)
        out = (weights @ seen_values.repeat_interleave(group, 1)).reshape(qkv.shape[0], -1)
        return torch.where((lengths > 0).unsqueeze(1), out, 0.0)


def _lines_of(batch: GpuBatch) -> tuple[Tensor, Tensor]:
    """Line of each token, and the tokens of its row that it sees: those of decodes and of chunks as said of each."""
    tokens = torch.arange(batch.tokens.shape[0])
    if batch.chunks is None:
        return tokens, batch.decode_lens.long()
    ends = batch.query_start[1:].long()
    lines = torch.searchsorted(ends, tokens, right=True).clamp(max=len(ends) - 1)
    of_chunk = batch.context_lens[lines] - (ends[lines] - 1 - tokens)
    lengths = torch.where(batch.decode_lens[lines] > 0, batch.decode_lens[lines].long(), of_chunk)
    return lines, torch.where(batch.slots >= 0, lengths, 0)


def _with_shared(pages: Tensor, lines: Tensor, batch: GpuBatch, shared: SharedPrefixes, page_size: int) -> Tensor:
    """The pages of each token, those of a shared prefix taken from the first line of its block."""
    places = shared.places[lines].long()
    blocks = places.clamp(min=0) // shared.block_lines
    first = shared.lines[blocks, 0].long().clamp(min=0)
    prefix = batch.page_table[batch.rows[first].long()].long()
    is_decode = (places >= 0) & (blocks < shared.count) & (batch.decode_lens[lines] > 0)
    num_shared = torch.where(is_decode, shared.tokens[blocks], 0) // page_size
    return torch.where(torch.arange(pages.shape[1]) < num_shared.unsqueeze(1), prefix, pages)


def _normed(heads: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    return heads if weight is None else TorchKernels().rms_norm(heads, Norm(weight, eps))


def _rotated(heads: Tensor, turns: Tensor) -> Tensor:
    cos, sin = turns.chunk(2, dim=-1)
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _write(cache: PagedLayerCache, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Put keys and values at their slots; those of slot -1 go behind the last one, where nobody looks."""
    for target, written in ((cache.keys, keys), (cache.values, values)):
        flat = target.transpose(1, 2).flatten(0, 1)
        room = torch.cat((flat, flat[:1]))
        room[slots] = written
        target.copy_(room[:-1].view(target.transpose(1, 2).shape).transpose(1, 2))
