"""The executor's KV cache as bookkeeping: who owns which page, and which prefixes the pages hold."""

from __future__ import annotations

from bough.executor.cache.events import CacheEvent, CacheEventKind
from bough.executor.cache.nodes import Extension, Match, Node, Pin, TailMatch
from bough.executor.cache.pages import PagePool
from bough.executor.cache.radix import RadixTree

__all__ = [
    "CacheEvent",
    "CacheEventKind",
    "Extension",
    "Match",
    "Node",
    "PagePool",
    "Pin",
    "RadixTree",
    "TailMatch",
]
