"""What the radix tree is made of, and what it answers with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt


class Node:
    """A run of pages below its parent. Owned by the tree; others hold it only to lock, extend and unlock."""

    __slots__ = (
        "children",
        "edges",
        "entry",
        "hashes",
        "is_condemned",
        "is_tail",
        "key",
        "last_used",
        "locks",
        "namespace",
        "num_tails",
        "pages",
        "parent",
        "pins",
        "start",
    )

    def __init__(self, *, namespace: bytes, parent: Node | None, key: bytes, pages: list[int]) -> None:
        self.namespace = namespace
        self.parent = parent
        self.key = bytearray(key)
        """Tokens of the run, as `token_bytes` packs them."""
        self.pages = pages
        self.hashes: list[bytes] = []
        """Chained hash of each page; empty for a tail. The root holds its namespace's hash."""
        self.children: dict[bytes, Node] = {}
        """By the bytes of the child's first page (all that a tail has)."""
        self.edges: list[bytes] = []
        """Keys of `children`, sorted."""
        self.num_tails = 0
        """How many of the children are tails."""
        self.is_tail = False
        self.is_condemned = False
        """No match may find this node or what is below it; both go when the last lock does."""
        self.start = 0
        """Pages of the prefix before this node."""
        self.locks = 0
        self.last_used = 0
        self.entry = 0
        """Number of the heap entry that stands for this node; others in the heap are stale."""
        self.pins: list[Pin] = []
        """Those of prefixes that end with this node's last page."""


class Pin:
    """A prefix of whole pages that is wanted again: it is evicted after all that has no pin, those used last, last.

    Unlike a lock it may be lost, with the first of its pages that goes.
    """

    __slots__ = ("node", "page_array", "pages")

    def __init__(self, node: Node, pages: list[int]) -> None:
        self.node: Node | None = node
        """Where the prefix ends; None once the pin is lost or given back."""
        self.pages = pages
        """Not to be changed."""
        self.page_array: npt.NDArray[np.int32] = np.array(pages, np.int32)
        """`pages`, for a page table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TailMatch:
    """A page that begins with tokens of the query but goes on differently (or ends)."""

    node: Node
    page: int
    num_tokens: int
    """Tokens that may be used, 1 <= num_tokens < page_size."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """The longest cached prefix of a query. Valid until the tree changes: lock it at once."""

    namespace: bytes
    node: Node | None
    """Where the match of whole pages ends; None when the namespace is empty."""
    num_node_pages: int
    """Pages of `node` that belong to the match."""
    pages: list[int]
    """Behind those of `pin`."""
    page_hash: bytes
    """Chained hash at the end of `pages`."""
    tail: TailMatch | None
    pin: Pin | None = None
    """Where the match began."""

    @property
    def num_pages(self) -> int:
        """All whole pages of the match."""
        return len(self.pages) if self.pin is None else len(self.pin.pages) + len(self.pages)


class Extension(NamedTuple):
    """What became of pages that were offered to the tree."""

    node: Node
    """Where the path ends now; the caller's lock moved here."""
    unused: list[int]
    """Offered pages that the tree did not take since it has those tokens; they stay the caller's."""
