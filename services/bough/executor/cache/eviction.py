"""In which order cached pages are given up: a heap of unlocked leaves, those with pins last, then by last use."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from bough.executor.cache.nodes import Node

_SPARE_ENTRIES = 64


class EvictionOrder:
    """Part of the radix tree."""

    def __init__(self) -> None:
        self._heap: list[tuple[bool, int, int, Node]] = []
        self._num_entries = 0

    def offer(self, node: Node, num_nodes: int) -> None:
        """An unlocked leaf may be evicted from now on, until it is locked or has a child; again when its pins change.

        Args:
            node: the leaf.
            num_nodes: of the tree; the heap stays within a small multiple of it.
        """
        self._num_entries += 1
        node.entry = self._num_entries
        heappush(self._heap, (bool(node.pins), node.last_used, node.entry, node))
        if len(self._heap) > 2 * num_nodes + _SPARE_ENTRIES:
            self._heap = [item for item in self._heap if _is_current(item)]
            heapify(self._heap)

    def first(self) -> Node | None:
        """The leaf that goes next; it stays here until it is removed from the tree, locked or has a child."""
        while self._heap:
            if _is_current(self._heap[0]):
                return self._heap[0][-1]
            heappop(self._heap)
        return None


def _is_current(item: tuple[bool, int, int, Node]) -> bool:
    *_, entry, node = item
    return node.entry == entry and not node.locks and not node.children
