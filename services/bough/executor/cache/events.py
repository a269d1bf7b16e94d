"""What the radix tree tells the outside: which full pages it now holds and which it dropped."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class CacheEventKind(IntEnum):
    """Whether pages came or went."""

    STORED = 1
    REMOVED = 2


class CacheEvent(NamedTuple):
    """Consecutive full pages of one prefix that were stored, or removed.

    Only full pages are told: a partly filled page cannot be looked up by a hash of its tokens.
    """

    kind: CacheEventKind
    namespace: bytes
    page_hashes: tuple[bytes, ...]
    """Chained hashes (`bough.common.prefix_hash`), in the order of the prefix."""
    num_tokens: int
    """Length of the prefix that ends with the last of `page_hashes`."""
