"""The radix tree over cached prefixes: token-level match, page-granular storage, LRU eviction.

Shape. Each namespace (tenant salt, adapter) has a root. A node's edge is a run of one or more whole pages, or it is a
*tail*: one partly filled page, always a leaf. Children of a node are found by the bytes of their whole first page, so
a match steps page-wise by dict look-ups and compares runs by memcmp; where no whole page fits, the child that shares
the most tokens is a neighbour in the sorted order of the children's first pages.

Ownership. Pages in the tree belong to the tree. A sequence that uses them holds a lock on the node where its part of
the path ends; locks are counted along the path up to the root, so an unlocked node has only unlocked descendants and
all its pages can be evicted. A run is shared up to a page boundary only: who diverges inside a page copies it.

After SGLang's radix cache (Zheng et al. 2024) and the paged storage of vLLM (Kwon et al. 2023).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator

from bough.common.prefix_hash import TOKEN_BYTES, page_hash, root_hash
from bough.executor.cache.events import CacheEvent, CacheEventKind
from bough.executor.cache.eviction import EvictionOrder
from bough.executor.cache.nodes import Extension, Match, Node, Pin, TailMatch
from bough.executor.cache.packed import common_pages, common_tokens


class RadixTree:
    """Cached prefixes of all namespaces.

    Args:
        page_size: tokens a page.
        release: takes the pages that the tree gives up (evicted or superseded), e.g. `PagePool.free`. A page is an
            opaque number to the tree.
    """

    def __init__(self, *, page_size: int, release: Callable[[list[int]], None]) -> None:
        self.page_size = page_size
        self._page_bytes = page_size * TOKEN_BYTES
        self._release = release
        self._roots: dict[bytes, Node] = {}
        self._order = EvictionOrder()
        self._num_nodes = 0
        self._num_pages = 0
        self._num_evictable = 0
        self._clock = 0
        self._events: list[CacheEvent] = []

    @property
    def num_pages(self) -> int:
        """Pages that the tree owns."""
        return self._num_pages

    @property
    def num_evictable_pages(self) -> int:
        """Pages that `evict` could give back now."""
        return self._num_evictable

    @property
    def num_locked_pages(self) -> int:
        """Pages of the tree that running sequences use."""
        return self._num_pages - self._num_evictable

    def match(self, namespace: bytes, key: bytes, limit: int, pin: Pin | None = None) -> Match:
        """Finds the longest cached prefix of a query; changes nothing.

        Args:
            namespace: only prefixes of this namespace match.
            key: the query's tokens as `token_bytes` packs them.
            limit: at most this many tokens match (the query's length less the tokens that must be computed).
            pin: one of the namespace that is not lost. Its tokens come before those of `key` and do not count in
                `limit`; the match begins behind its pages, and costs nothing for them.
        """
        node = self._roots.get(namespace) if pin is None else pin.node
        if node is None:
            return Match(
                namespace=namespace, node=None, num_node_pages=0, pages=[], page_hash=root_hash(namespace), tail=None
            )
        page_bytes = self._page_bytes
        end = min(len(key), limit * TOKEN_BYTES)
        whole = key[: end // page_bytes * page_bytes]
        pages: list[int] = []
        position, used = 0, len(node.pages)
        while position < len(whole):
            child = node.children.get(key[position : position + page_bytes])
            if child is None or child.is_condemned:
                break
            node = child
            used = common_pages(child.key, whole, position, page_bytes)
            pages += child.pages[:used]
            position += used * page_bytes
            if used < len(child.pages):
                break
        rest = key[position : min(end, position + page_bytes)]
        return Match(
            namespace=namespace,
            node=node,
            num_node_pages=used,
            pages=pages,
            page_hash=node.hashes[used - 1] if used else node.hashes[-1],
            tail=self._match_tail(node, used, rest) if rest else None,
            pin=pin,
        )

    def _match_tail(self, node: Node, used: int, rest: bytes) -> TailMatch | None:
        if used < len(node.pages):
            page_bytes = self._page_bytes
            edge = bytes(node.key[used * page_bytes : (used + 1) * page_bytes])
            num_tokens = common_tokens(edge, rest)
            return TailMatch(node=node, page=node.pages[used], num_tokens=num_tokens) if num_tokens else None
        # In sorted order the edge with the longest common prefix is one of the two around the query.
        at = bisect_left(node.edges, rest)
        best, best_tokens = b"", 0
        for edge in node.edges[max(at - 1, 0) : at + 1]:
            num_tokens = common_tokens(edge, rest)
            if num_tokens > best_tokens and not node.children[edge].is_condemned:
                best, best_tokens = edge, num_tokens
        if not best_tokens:
            return None
        child = node.children[best]
        return TailMatch(node=child, page=child.pages[0], num_tokens=best_tokens)

    def lock(self, match: Match) -> Node:
        """Locks the whole pages of a fresh match (not its tail) and returns the node to extend and unlock later."""
        node = match.node
        if node is None:
            node = self._roots.get(match.namespace) or self._add_root(match.namespace)
        elif match.num_node_pages < len(node.pages):
            node = self._split(node, match.num_node_pages)
        self.hold(node)
        return node

    def hold(self, node: Node) -> None:
        """Adds a lock on a node of the tree: none of the pages up to its end can be evicted."""
        self._clock += 1
        step: Node | None = node
        while step is not None:
            self._lock_one(step)
            step = step.parent

    def unlock(self, node: Node) -> None:
        """Takes back one lock of `lock`, `hold` or `extend`. Counts as a use of the path.

        Raises:
            RuntimeError: the node is not locked.
        """
        if node.locks < 1:
            raise RuntimeError("unlock without a lock")
        self._clock += 1
        step: Node | None = node
        condemned: Node | None = None
        while step is not None:
            step.locks -= 1
            step.last_used = self._clock
            if step.locks == 0:
                self._num_evictable += len(step.pages)
                if step.is_condemned:
                    condemned = step
            step = step.parent
        if condemned is not None:
            self._discard(condemned)
        elif node.locks == 0:
            if node.is_tail and self._is_covered(node.parent, bytes(node.key), besides=1):
                self._release(self._remove(node))
            else:
                self._offer(node)

    def pin(self, node: Node, pages: list[int]) -> Pin | None:
        """Have a prefix of whole pages evicted last; None where one of them is condemned.

        Args:
            node: of the tree; the prefix is the beginning of the path to it.
            pages: of the prefix, at least one.
        """
        while node.start >= len(pages):
            assert node.parent is not None
            node = node.parent
        if len(pages) < node.start + len(node.pages):
            node = self._split(node, len(pages) - node.start)
        step: Node | None = node
        while step is not None:
            if step.is_condemned:
                return None
            step = step.parent
        pin = Pin(node, pages)
        node.pins.append(pin)
        self._offer_again(node)
        return pin

    def unpin(self, pin: Pin) -> None:
        """Its pages are like all others again; no effect on a pin that is lost."""
        node, pin.node = pin.node, None
        if node is not None:
            node.pins.remove(pin)
            self._offer_again(node)

    def end_hash(self, node: Node) -> bytes:
        """The chained hash of the last full page on the way to a node's end."""
        if node.is_tail:
            assert node.parent is not None
            return node.parent.hashes[-1]
        return node.hashes[-1]

    def contains_page(self, node: Node, page: bytes) -> bool:
        """Whether a full page with these tokens follows the last full page on the way to a node's end."""
        base = node.parent if node.is_tail else node
        assert base is not None
        return page in base.children

    def extend(self, held: Node, key: bytes, pages: list[int]) -> Extension:
        """Offers the pages that follow the last full page of a locked path; the lock moves to the new end.

        A held tail is taken back first: its page must be offered again as the first of `pages`, now with at least as
        many tokens, and is not freed if it turns out to be unused.

        Args:
            held: a node that the caller locked; invalid afterwards.
            key: the new tokens, packed; their last page may be partly filled.
            pages: the pages that hold them, ceil(tokens / page_size) of them.
        """
        page_bytes = self._page_bytes
        whole = key[: len(key) // page_bytes * page_bytes]
        num_full = len(whole) // page_bytes
        node = self._take_back_tail(held) if held.is_tail else held
        self._clock += 1
        taken_at = 0
        while taken_at < num_full:
            child = node.children.get(key[taken_at * page_bytes : (taken_at + 1) * page_bytes])
            if child is None:
                break
            used = common_pages(child.key, whole, taken_at * page_bytes, page_bytes)
            node = self._split(child, used) if used < len(child.pages) else child
            self._lock_one(node)
            taken_at += used
        unused = pages[:taken_at]
        if taken_at < num_full:
            node = self._append(node, key[taken_at * page_bytes : len(whole)], pages[taken_at:num_full])
        rest = key[len(whole) :]
        if rest and self._is_covered(node, rest):
            unused.append(pages[num_full])
        elif rest:
            node = self._append_tail(node, rest, pages[num_full])
        return Extension(node=node, unused=unused)

    def evict(self, num_pages: int) -> int:
        """Gives up to `num_pages` unlocked pages back, ends of least recently used paths first.

        Returns:
            How many pages went to `release`.
        """
        freed: list[int] = []
        while len(freed) < num_pages:
            node = self._order.first()
            if node is None:
                break
            count = min(num_pages - len(freed), len(node.pages))
            freed += self._remove(node) if count == len(node.pages) else self._trim(node, count)
        if freed:
            self._release(freed)
        return len(freed)

    def condemn(self, namespace: bytes, key: bytes, first_page: int) -> None:
        """Has no later match find the cached pages of a query from `first_page` on, nor what goes on from them.

        They are given up at once, or when the last sequence that uses them lets go. A tail that its owner takes back
        to extend it is the owner's again, and no longer condemned.
        """
        match = self.match(namespace, key, len(key) // TOKEN_BYTES)
        node, tail, end = match.node, match.tail, len(match.pages) * self._page_bytes
        if node is not None and first_page < len(match.pages):
            while node.start > first_page:
                assert node.parent is not None
                node = node.parent
            if node.start < first_page:
                self._split(node, first_page - node.start)
        elif first_page == len(match.pages) and tail is not None and key.startswith(bytes(tail.node.key), end):
            node = tail.node
        else:
            return
        node.is_condemned = True
        if not node.locks:
            self._discard(node)
            return
        for below in self._walk([node]):
            _lose_pins(below)

    def drain_events(self) -> list[CacheEvent]:
        """What happened since the last call, in order."""
        events, self._events = self._events, []
        return events

    def snapshot(self) -> list[CacheEvent]:
        """Events that would tell a new listener all that the tree holds now."""
        return [
            self._event(CacheEventKind.STORED, node, node.hashes, len(node.pages))
            for node in self._walk(list(self._roots.values()))
            if node.parent is not None and not node.is_tail
        ]

    def _walk(self, stack: list[Node]) -> Iterator[Node]:
        while stack:
            node = stack.pop()
            yield node
            stack += node.children.values()

    # Structure: adding, splitting and removing nodes.

    def _add_root(self, namespace: bytes) -> Node:
        root = Node(namespace=namespace, parent=None, key=b"", pages=[])
        root.hashes = [root_hash(namespace)]
        self._roots[namespace] = root
        self._num_nodes += 1
        return root

    def _attach(self, parent: Node, node: Node) -> None:
        edge = bytes(node.key[: self._page_bytes])
        parent.children[edge] = node
        insort(parent.edges, edge)
        parent.num_tails += node.is_tail
        self._num_nodes += 1
        self._num_pages += len(node.pages)
        if not node.locks:
            self._num_evictable += len(node.pages)

    def _detach(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        edge = bytes(node.key[: self._page_bytes])
        del parent.children[edge]
        del parent.edges[bisect_left(parent.edges, edge)]
        parent.num_tails -= node.is_tail
        node.entry = 0
        self._num_nodes -= 1
        self._num_pages -= len(node.pages)
        if not node.locks:
            self._num_evictable -= len(node.pages)

    def _split(self, node: Node, num_pages: int) -> Node:
        """Cuts a run in two and returns the new upper part; `node` stays the lower one, so that locks hold."""
        parent = node.parent
        assert parent is not None
        cut = num_pages * self._page_bytes
        upper = Node(namespace=node.namespace, parent=parent, key=bytes(node.key[:cut]), pages=node.pages[:num_pages])
        upper.hashes = node.hashes[:num_pages]
        upper.start = node.start
        upper.locks = node.locks
        upper.is_condemned = node.is_condemned
        parent.children[bytes(upper.key[: self._page_bytes])] = upper
        node.parent = upper
        node.key = node.key[cut:]
        node.pages = node.pages[num_pages:]
        node.hashes = node.hashes[num_pages:]
        node.start += num_pages
        edge = bytes(node.key[: self._page_bytes])
        upper.children[edge] = node
        upper.edges.append(edge)
        self._num_nodes += 1
        return upper

    def _append(self, node: Node, key: bytes, pages: list[int]) -> Node:
        """Puts full pages below a node that the caller locked; returns the locked end."""
        self._drop_superseded(node, key[: self._page_bytes])
        hashes: list[bytes] = []
        parent_hash = node.hashes[-1]
        for start in range(0, len(key), self._page_bytes):
            parent_hash = page_hash(parent_hash, key[start : start + self._page_bytes])
            hashes.append(parent_hash)
        if node.parent is not None and not node.children and node.locks == 1 and not node.pins:
            # The only user grows its own leaf: no node per page, and nobody else's lock or pin covers the new pages.
            node.key += key
            node.pages += pages
            node.hashes += hashes
            node.last_used = self._clock
            self._num_pages += len(pages)
        else:
            child = Node(namespace=node.namespace, parent=node, key=key, pages=pages)
            child.hashes = hashes
            child.start = node.start + len(node.pages)
            child.locks = 1
            child.last_used = self._clock
            self._attach(node, child)
            node = child
        self._events.append(self._event(CacheEventKind.STORED, node, hashes, len(node.pages)))
        return node

    def _append_tail(self, node: Node, key: bytes, page: int) -> Node:
        self._drop_superseded(node, key)
        tail = Node(namespace=node.namespace, parent=node, key=key, pages=[page])
        tail.is_tail = True
        tail.start = node.start + len(node.pages)
        tail.locks = 1
        tail.last_used = self._clock
        self._attach(node, tail)
        return tail

    def _take_back_tail(self, tail: Node) -> Node:
        """Removes a tail that only the caller locks; its page is the caller's again."""
        if tail.locks != 1:
            raise RuntimeError(f"a tail with {tail.locks} locks cannot be extended")
        parent = tail.parent
        assert parent is not None
        self._detach(tail)
        return parent

    def _drop_superseded(self, node: Node, edge: bytes) -> None:
        """Frees unlocked tails below `node` whose tokens a new child begins with."""
        if not node.num_tails:
            return
        for size in range(TOKEN_BYTES, len(edge), TOKEN_BYTES):
            tail = node.children.get(edge[:size])
            if tail is not None and not tail.locks:
                self._detach(tail)
                self._release(tail.pages)

    def _is_covered(self, node: Node | None, key: bytes, besides: int = 0) -> bool:
        """Whether a child of `node` begins with `key`; `besides=1` when a child is exactly `key` and not meant."""
        assert node is not None
        at = bisect_left(node.edges, key) + besides
        return at < len(node.edges) and node.edges[at].startswith(key)

    def _remove(self, node: Node) -> list[int]:
        """Removes an unlocked leaf and returns its pages."""
        parent = node.parent
        assert parent is not None
        self._detach(node)
        _lose_pins(node)
        if not node.is_tail:
            self._events.append(self._event(CacheEventKind.REMOVED, node, node.hashes, len(node.pages)))
        if not parent.locks:
            self._offer(parent)
        return node.pages

    def _discard(self, node: Node) -> None:
        """Gives up an unlocked node and all that is below it."""
        doomed = [node]
        for each in doomed:
            doomed += each.children.values()
        for each in reversed(doomed):
            self._release(self._remove(each))

    def _trim(self, node: Node, count: int) -> list[int]:
        """Removes the last `count` pages, but not all, of an unlocked leaf and returns them."""
        self._events.append(self._event(CacheEventKind.REMOVED, node, node.hashes[-count:], len(node.pages)))
        freed = node.pages[-count:]
        del node.pages[-count:]
        del node.hashes[-count:]
        del node.key[-count * self._page_bytes :]
        self._num_pages -= count
        self._num_evictable -= count
        if node.pins:
            _lose_pins(node)
            self._offer(node)
        return freed

    def _event(self, kind: CacheEventKind, node: Node, hashes: list[bytes], end: int) -> CacheEvent:
        return CacheEvent(
            kind=kind,
            namespace=node.namespace,
            page_hashes=tuple(hashes),
            num_tokens=(node.start + end) * self.page_size,
        )

    # Use.

    def _lock_one(self, node: Node) -> None:
        if not node.locks:
            self._num_evictable -= len(node.pages)
        node.locks += 1
        node.last_used = self._clock

    def _offer_again(self, node: Node) -> None:
        """The pins of a node of the tree have changed."""
        if not node.locks and not node.children:
            self._order.offer(node, self._num_nodes)

    def _offer(self, node: Node) -> None:
        """Lets an unlocked node be evicted if it is a leaf; drops an empty root."""
        if node.children:
            return
        if node.parent is None:
            del self._roots[node.namespace]
            self._num_nodes -= 1
            return
        self._order.offer(node, self._num_nodes)


def _lose_pins(node: Node) -> None:
    for pin in node.pins:
        pin.node = None
    node.pins = []
