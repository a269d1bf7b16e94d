"""What running sequences have computed, on its way into the radix tree."""

from __future__ import annotations

from bough.common.prefix_hash import TOKEN_BYTES
from bough.executor.cache.radix import RadixTree
from bough.executor.sequence import Sequence


class Publisher:
    """Part of the composer.

    Args:
        tree: Where pages go.
    """

    def __init__(self, *, tree: RadixTree) -> None:
        self._tree = tree

    def publish(self, sequence: Sequence, *, with_tail: bool = False) -> None:
        """Moves the newly computed full pages (and the partly filled one) of a sequence into the tree.

        The first page that the tree already has ends this: taking the lock down to the twin would pin pages that this
        sequence does not use. What follows stays private until the end.
        """
        page_size = self._tree.page_size
        first, num_head = sequence.num_published, len(sequence.head)
        num_full = sequence.num_known // page_size
        end = sequence.num_known if with_tail else num_full * page_size
        start = first * page_size
        if sequence.is_diverted or end <= start:
            return
        assert sequence.node is not None
        key = sequence.packed(start, end)
        if num_full > first and self._tree.contains_page(sequence.node, key[: page_size * TOKEN_BYTES]):
            sequence.is_diverted = True
            return
        extension = self._tree.extend(
            sequence.node, key, sequence.pages[first - num_head : -(-end // page_size) - num_head]
        )
        sequence.node = extension.node
        sequence.num_published = num_full

    def release(self, sequence: Sequence) -> list[int]:
        """All that a sequence has computed goes to the tree and is no longer locked; pages that are of no use there."""
        page_size = self._tree.page_size
        assert sequence.node is not None
        first, num_head = sequence.num_published, len(sequence.head)
        num_used = -(-sequence.num_known // page_size)
        key = sequence.packed(first * page_size, sequence.num_known)
        extension = self._tree.extend(sequence.node, key, sequence.pages[first - num_head : num_used - num_head])
        self._tree.unlock(extension.node)
        return [*extension.unused, *sequence.pages[num_used - num_head :]]
