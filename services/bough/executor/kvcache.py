"""The tensors that hold keys and values of all pages, and how a page is laid out.

A page holds 16 tokens. Inside a page and head the keys lie transposed and the values row by row, each in groups of
`4 / itemsize` neighbours: a 32-bit lane holds one float32 or a pair of bfloat16. So one 64-byte vector holds one key
dimension (or pair) of all 16 tokens, scores need no sum across lanes, and a page is exactly the operand tile of the
AMX matrix unit, with nothing to rearrange when it is read.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bough.executor.models.config import ModelConfig

PAGE_SIZE = 16
"""Tokens in a page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KVCacheLayout:
    """Shape of the cache of one model."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype
    page_size: int = PAGE_SIZE

    @classmethod
    def of(cls, config: ModelConfig, dtype: torch.dtype) -> KVCacheLayout:
        """What a model needs."""
        return cls(
            num_layers=config.num_layers, num_kv_heads=config.num_kv_heads, head_dim=config.head_dim, dtype=dtype
        )

    @property
    def group(self) -> int:
        """Neighbours that share a 32-bit lane: 1 for float32, 2 for bfloat16."""
        return 4 // self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """Bytes of one page over all layers, keys and values."""
        elements = self.num_kv_heads * self.page_size * self.head_dim
        return 2 * self.num_layers * elements * self.dtype.itemsize


class LayerCache(Protocol):
    """Keys and values of one layer; how a page is laid out in them is the implementation's business."""

    @property
    def keys(self) -> Tensor:
        """All pages' keys."""
        ...

    @property
    def values(self) -> Tensor:
        """All pages' values."""
        ...

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        ...

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Put keys and values [T, kv_heads, head_dim] of T tokens at their slots ([T] int64)."""
        ...

    def gather(self, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., kv_heads, P * page_size, head_dim] of pages [..., P], in the order of the pages."""
        ...


class Cache(Protocol):
    """Keys and values of all layers."""

    @property
    def layers(self) -> tuple[LayerCache, ...]:
        """In the order of the model."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TiledLayerCache:
    """Views into the cache of one layer; g is the layout's `group`."""

    keys: Tensor
    """[pages, kv_heads, head_dim / g, page_size, g]"""
    values: Tensor
    """[pages, kv_heads, page_size / g, head_dim, g]"""

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return int(self.keys.shape[-2])

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Put keys and values [T, kv_heads, head_dim] of T tokens at their slots ([T] int64)."""
        _, heads, depth, page_size, group = self.keys.shape
        pages, offsets = slots // page_size, slots % page_size
        self.keys[pages, :, :, offsets] = keys.view(-1, heads, depth, group)
        self.values[pages, :, offsets // group, :, offsets % group] = values

    def gather(self, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., kv_heads, P * page_size, head_dim] of pages [..., P], in the order of the pages."""
        lead = pages.shape[:-1]
        keys, values = self.keys[pages], self.values[pages]
        heads, head_dim = values.shape[-4], values.shape[-2]
        # [..., P, heads, depth, page, g] -> [..., heads, P, page, depth, g]; values the same from their own order
        keys = keys.movedim(-4, -5).movedim(-2, -3)
        values = values.movedim(-4, -5).movedim(-1, -2)
        shape = (*lead, heads, -1, head_dim)
        return keys.reshape(shape), values.reshape(shape)


class KVCache:
    """Keys and values of `num_pages` pages in every layer. Memory is committed as pages are first written."""

    def __init__(self, layout: KVCacheLayout, num_pages: int) -> None:
        self.layout = layout
        self.num_pages = num_pages
        page, head_dim, group = layout.page_size, layout.head_dim, layout.group
        lead = (layout.num_layers, num_pages, layout.num_kv_heads)
        self._keys = _lazy_zeros((*lead, head_dim // group, page, group), layout.dtype)
        self._values = _lazy_zeros((*lead, page // group, head_dim, group), layout.dtype)
        self.layers: tuple[LayerCache, ...] = tuple(
            TiledLayerCache(keys=keys, values=values) for keys, values in zip(self._keys, self._values, strict=True)
        )

    def copy_pages(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        """Copy whole pages in every layer. Targets are distinct and none of them is a source."""
        if not sources:
            return
        source, target = torch.tensor(sources), torch.tensor(targets)
        self._keys[:, target] = self._keys[:, source]
        self._values[:, target] = self._values[:, source]


def _lazy_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros that take memory only where they are written; torch.zeros would write them all.

    Zeros and not anything: positions past a context are multiplied by a weight of 0, which a NaN would survive.
    """
    size_bytes = math.prod(shape) * dtype.itemsize
    return torch.frombuffer(mmap.mmap(-1, size_bytes), dtype=dtype).view(shape)
