"""Keys and values of all pages on the GPU.

A page of one head is one piece of memory, so that a program that serves a head reads whole pages of consecutive bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bough.executor.kvcache import KVCacheLayout, LayerCache


@dataclass(frozen=True, slots=True, kw_only=True)
class PagedLayerCache:
    """One layer's part (views)."""

    keys: Tensor
    """[pages, kv_heads, page_size, head_dim]"""
    values: Tensor
    """[pages, kv_heads, page_size, head_dim]"""

    @property
    def page_size(self) -> int:
        """Tokens in a page."""
        return int(self.keys.shape[2])

    def write(self, keys: Tensor, values: Tensor, slots: Tensor) -> None:
        """Put keys and values [T, kv_heads, head_dim] of T tokens at their slots ([T] int64)."""
        pages, offsets = slots // self.page_size, slots % self.page_size
        self.keys[pages, :, offsets] = keys
        self.values[pages, :, offsets] = values

    def gather(self, pages: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [..., kv_heads, P * page_size, head_dim] of pages [..., P], in the order of the pages."""
        shape = (*pages.shape[:-1], self.keys.shape[1], -1, self.keys.shape[3])
        return (
            self.keys[pages].transpose(-4, -3).reshape(shape),
            self.values[pages].transpose(-4, -3).reshape(shape),
        )


class PagedCache:
    """The pool: `num_pages` pages in every layer."""

    def __init__(self, layout: KVCacheLayout, num_pages: int, device: torch.device) -> None:
        self.layout = layout
        self.num_pages = num_pages
        shape = (layout.num_layers, num_pages, layout.num_kv_heads, layout.page_size, layout.head_dim)
        # Zeros: positions past a context are multiplied by a weight of 0, which a NaN would survive.
        self._keys = torch.zeros(shape, dtype=layout.dtype, device=device)
        self._values = torch.zeros(shape, dtype=layout.dtype, device=device)
        self.layers: tuple[LayerCache, ...] = tuple(
            PagedLayerCache(keys=keys, values=values) for keys, values in zip(self._keys, self._values, strict=True)
        )

    def copy_pages(self, sources: Tensor, targets: Tensor) -> None:
        """Copy whole pages ([n] int64 on the device) in every layer; targets are distinct and none is a source."""
        self._keys[:, targets] = self._keys[:, sources]
        self._values[:, targets] = self._values[:, sources]
