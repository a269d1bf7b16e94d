"""The tree against a naive model that knows, for each page, the prefix it ends and when it was last used."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bough.common.prefix_hash import prefix_hashes, token_bytes
from bough.executor.cache import CacheEventKind, Node, PagePool, Pin, RadixTree, TailMatch
from tests.executor.cache.profiles import property_settings
from tests.executor.cache.tree_check import check_tree, nodes_of, path_pages, tree_pages

PAGE = 3
Prefix = tuple[bytes, tuple[int, ...]]
namespaces = st.sampled_from([b"", b"tenant"])
queries = st.lists(st.integers(0, 1), min_size=1, max_size=14)


@dataclass(kw_only=True, eq=False)
class Holder:
    """What a sequence is to the tree: a locked path, and tokens that it computes little by little."""

    namespace: bytes
    tokens: list[int]
    node: Node
    pages: list[int]
    num_published: int
    num_computed: int
    private: list[int] = field(default_factory=list)


def common_length(left: tuple[int, ...], right: tuple[int, ...]) -> int:
    count = 0
    while count < min(len(left), len(right)) and left[count] == right[count]:
        count += 1
    return count


class TreeMachine(RuleBasedStateMachine):
    """Random starts, progress, ends and evictions."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = PagePool(num_pages=24, page_size=PAGE)
        self.tree = RadixTree(page_size=PAGE, release=self.on_release)
        self.holders: list[Holder] = []
        self.prefixes: dict[int, Prefix] = {}
        self.condemned: set[int] = set()
        self.pins: list[Pin] = []
        """Those that must not be lost yet."""
        self.last_used: dict[int, int] = {}
        self.now = 0
        self.released: list[int] = []
        self.mirror: set[bytes] = set()

    # The naive model.

    def on_release(self, pages: list[int]) -> None:
        for page in pages:
            assert not self.is_locked(page), "a locked page was given up"
            del self.prefixes[page]
            self.condemned.discard(page)
        self.pins = [pin for pin in self.pins if pin.pages[-1] not in pages]
        self.released += pages
        self.pool.free(pages)

    def is_locked(self, page: int) -> bool:
        return any(page in self.path(holder.node) for holder in self.holders)

    def path(self, node: Node) -> list[int]:
        pages: list[int] = []
        step: Node | None = node
        while step is not None:
            pages += step.pages
            step = step.parent
        return pages

    def touch(self, node: Node) -> None:
        self.now += 1
        for page in self.path(node):
            self.last_used[page] = self.now

    def unlock(self, node: Node) -> None:
        self.touch(node)
        self.tree.unlock(node)

    def is_condemned(self, page: int) -> bool:
        """Whether the page, or one that it goes on from, was condemned."""
        space, prefix = self.prefixes[page]
        for other in self.condemned:
            other_space, other_prefix = self.prefixes[other]
            goes_on = len(other_prefix) % PAGE == 0 and prefix[: len(other_prefix)] == other_prefix
            if other == page or (space == other_space and goes_on):
                return True
        return False

    def longest(self, namespace: bytes, query: tuple[int, ...]) -> int:
        return max(
            (
                common_length(query, prefix)
                for page, (space, prefix) in self.prefixes.items()
                if space == namespace and not self.is_condemned(page)
            ),
            default=0,
        )

    def expected_victims(self) -> set[int]:
        """Unlocked pages that no other page continues, those without a pin first, used least recently."""
        ends = [
            page
            for page, (space, prefix) in self.prefixes.items()
            if not self.is_locked(page)
            and not any(
                other_space == space
                and len(prefix) % PAGE == 0
                and len(other) > len(prefix)
                and other[: len(prefix)] == prefix
                for other_space, other in self.prefixes.values()
            )
        ]
        pinned = {pin.pages[-1] for pin in self.pins}
        ends = [page for page in ends if page not in pinned] or ends
        oldest = min((self.last_used[page] for page in ends), default=0)
        return {page for page in ends if self.last_used[page] == oldest}

    # What sequences do.

    def check_match(self, namespace: bytes, query: tuple[int, ...], pages: list[int], tail: TailMatch | None) -> None:
        num_tokens = len(pages) * PAGE + (tail.num_tokens if tail is not None else 0)
        longest = self.longest(namespace, query)
        # A condemned neighbour may hide one that shares a part of a page.
        assert num_tokens == longest or (self.condemned and longest // PAGE * PAGE <= num_tokens < longest)
        for index, page in enumerate(pages):
            assert self.prefixes[page] == (namespace, query[: (index + 1) * PAGE])
        if tail is not None:
            assert 0 < tail.num_tokens < PAGE
            space, prefix = self.prefixes[tail.page]
            assert (space, prefix[:num_tokens]) == (namespace, query[:num_tokens])
            assert tail.page in tail.node.pages

    @precondition(lambda self: len(self.holders) < 5)
    @rule(namespace=namespaces, tokens=queries, keep=st.integers(0, 2), holds_tail=st.booleans())
    def start(self, namespace: bytes, tokens: list[int], keep: int, holds_tail: bool) -> None:
        limit = max(len(tokens) - keep, 0)
        match = self.tree.match(namespace, token_bytes(tokens), limit)
        self.check_match(namespace, tuple(tokens[:limit]), match.pages, match.tail)
        node = self.tree.lock(match)
        num_missing = -(-len(tokens) // PAGE) - len(match.pages)
        holder = Holder(
            namespace=namespace,
            tokens=tokens,
            node=node,
            pages=match.pages.copy(),
            num_published=len(match.pages),
            num_computed=len(match.pages) * PAGE,
        )
        self.holders.append(holder)
        if holds_tail and match.tail is not None:
            self.tree.hold(match.tail.node)
            self.unlock(match.tail.node)
        self.tree.evict(num_missing - self.pool.num_free)
        if self.pool.can_allocate(num_missing):
            holder.pages += self.pool.allocate(num_missing)
        else:
            self.holders.remove(holder)
            self.unlock(node)

    def publish(self, holder: Holder, end: int) -> None:
        first = holder.num_published
        key = holder.tokens[first * PAGE : end]
        pages = holder.pages[first : -(-end // PAGE)]
        if holder.node.is_tail:
            del self.prefixes[holder.pages[first]]
            self.condemned.discard(holder.pages[first])
        # The tree may free a tail that the new pages supersede, so the model learns of them afterwards.
        self.holders.remove(holder)
        extension = self.tree.extend(holder.node, token_bytes(key), pages)
        for index, page in enumerate(pages):
            if page not in extension.unused:
                self.prefixes[page] = (holder.namespace, tuple(holder.tokens[: min((first + index + 1) * PAGE, end)]))
        holder.node = extension.node
        holder.num_published = end // PAGE
        holder.private += [page for page in pages[: end // PAGE - first] if page in extension.unused]
        self.holders.append(holder)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), num_tokens=st.integers(1, 7), with_tail=st.booleans())
    def compute(self, data: st.DataObject, num_tokens: int, with_tail: bool) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        holder.num_computed = min(holder.num_computed + num_tokens, len(holder.tokens))
        end = holder.num_computed if with_tail else holder.num_computed // PAGE * PAGE
        if end > holder.num_published * PAGE:
            self.publish(holder, end)

    @precondition(lambda self: self.holders)
    @rule(data=st.data(), publishes=st.booleans())
    def finish(self, data: st.DataObject, publishes: bool) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if publishes or holder.node.is_tail:
            self.publish(holder, holder.num_computed)
        in_tree = holder.num_published + holder.node.is_tail
        self.holders.remove(holder)
        self.unlock(holder.node)
        self.pool.free(holder.private + holder.pages[in_tree:])

    @rule(namespace=namespaces, tokens=queries)
    def pin(self, namespace: bytes, tokens: list[int]) -> None:
        match = self.tree.match(namespace, token_bytes(tokens), len(tokens))
        if match.node is not None and match.pages:
            pin = self.tree.pin(match.node, match.pages)
            assert pin is not None
            self.pins.append(pin)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def pin_a_path(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from(self.holders))
        if holder.num_published:
            published = path_pages(holder.node)[: holder.num_published]
            num_pages = data.draw(st.integers(1, holder.num_published))
            pin = self.tree.pin(holder.node, published[:num_pages])
            assert (pin is None) == self.is_condemned(published[num_pages - 1])
            self.pins += [] if pin is None else [pin]

    @precondition(lambda self: self.pins)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        pin = self.pins.pop(data.draw(st.integers(0, len(self.pins) - 1)))
        self.tree.unpin(pin)
        assert pin.node is None

    @precondition(lambda self: self.pins)
    @rule(data=st.data(), tokens=queries, keep=st.integers(0, 2))
    def match_from_a_pin(self, data: st.DataObject, tokens: list[int], keep: int) -> None:
        pin = data.draw(st.sampled_from(self.pins))
        namespace, before = self.prefixes[pin.pages[-1]]
        limit = max(len(tokens) - keep, 0)
        match = self.tree.match(namespace, token_bytes(tokens), limit, pin)
        whole = [*before, *tokens]
        same = self.tree.match(namespace, token_bytes(whole), len(before) + limit)
        assert (match.node, pin.pages + match.pages, match.page_hash) == (same.node, same.pages, same.page_hash)
        assert match.num_node_pages == same.num_node_pages and match.tail == same.tail

    @invariant()
    def pins_are_lost_with_their_pages_alone(self) -> None:
        assert all(pin.node is not None for pin in self.pins)
        known = {id(pin) for node in nodes_of(self.tree) for pin in node.pins}
        assert known == {id(pin) for pin in self.pins}

    @rule(namespace=namespaces, tokens=queries, first_page=st.integers(0, 3))
    def condemn(self, namespace: bytes, tokens: list[int], first_page: int) -> None:
        match = self.tree.match(namespace, token_bytes(tokens), len(tokens))
        tail, found = match.tail, match.pages[first_page : first_page + 1]
        if first_page == len(match.pages) and tail is not None and tail.node.is_tail:
            is_whole = len(self.prefixes[tail.page][1]) == first_page * PAGE + tail.num_tokens
            found = [tail.page] if is_whole else []
        self.condemned.update(found)
        self.pins = [pin for pin in self.pins if not self.is_condemned(pin.pages[-1])]
        self.tree.condemn(namespace, token_bytes(tokens), first_page)

    @invariant()
    def condemned_pages_go_with_their_last_user(self) -> None:
        assert all(self.is_locked(page) for page in self.condemned)

    @rule(num_pages=st.integers(1, 4))
    def evict(self, num_pages: int) -> None:
        for _ in range(num_pages):
            expected = self.expected_victims()
            self.released.clear()
            assert self.tree.evict(1) == len(self.released) == bool(expected)
            assert set(self.released) <= expected

    @rule(namespace=namespaces, tokens=queries, keep=st.integers(0, 3))
    def match(self, namespace: bytes, tokens: list[int], keep: int) -> None:
        limit = max(len(tokens) - keep, 0)
        match = self.tree.match(namespace, token_bytes(tokens), limit)
        self.check_match(namespace, tuple(tokens[:limit]), match.pages, match.tail)

    # What must hold after each of them.

    @invariant()
    def tree_is_sound(self) -> None:
        check_tree(self.tree, [holder.node for holder in self.holders])

    @invariant()
    def each_page_has_one_owner(self) -> None:
        in_tree = tree_pages(self.tree)
        assert sorted(in_tree) == sorted(self.prefixes)
        private = [
            page
            for holder in self.holders
            for page in holder.private + holder.pages[holder.num_published + holder.node.is_tail :]
        ]
        assert sorted(in_tree + private + self.pool._free) == list(range(self.pool.num_pages))

    @invariant()
    def events_mirror_the_tree(self) -> None:
        for event in self.tree.drain_events():
            if event.kind is CacheEventKind.STORED:
                assert self.mirror.isdisjoint(event.page_hashes)
                self.mirror.update(event.page_hashes)
            else:
                assert self.mirror.issuperset(event.page_hashes)
                self.mirror.difference_update(event.page_hashes)
        full = [(space, prefix) for space, prefix in self.prefixes.values() if len(prefix) % PAGE == 0]
        assert self.mirror == {prefix_hashes(space, prefix, PAGE)[-1] for space, prefix in full}

    def teardown(self) -> None:
        while self.holders:
            holder = self.holders[0]
            self.publish(holder, holder.num_computed)
            self.holders.remove(holder)
            self.unlock(holder.node)
            self.pool.free(holder.private + holder.pages[holder.num_published + holder.node.is_tail :])
        check_tree(self.tree, [])
        self.tree.evict(self.pool.num_pages)
        assert self.pool.num_free == self.pool.num_pages
        assert tree_pages(self.tree) == [] and not self.tree._roots


TestTree = TreeMachine.TestCase
TestTree.settings = property_settings(max_examples=400, steps=40)
