from __future__ import annotations

import pytest

from bough.common.prefix_hash import prefix_hashes, token_bytes
from bough.executor.cache import CacheEvent, CacheEventKind, Match, Node, PagePool, Pin, RadixTree
from tests.executor.cache.tree_check import check_tree, nodes_of, tree_pages

PAGE = 4


class Cache:
    """A tree with its pool and short ways to fill and ask it."""

    def __init__(self, num_pages: int = 32) -> None:
        self.pool = PagePool(num_pages=num_pages, page_size=PAGE)
        self.tree = RadixTree(page_size=PAGE, release=self.pool.free)

    def match(self, tokens: list[int], namespace: bytes = b"") -> Match:
        return self.tree.match(namespace, token_bytes(tokens), len(tokens))

    def num_matched(self, tokens: list[int], namespace: bytes = b"") -> int:
        match = self.match(tokens, namespace)
        return len(match.pages) * PAGE + (match.tail.num_tokens if match.tail is not None else 0)

    def hold(self, tokens: list[int], namespace: bytes = b"") -> Node:
        """Stores a prefix as a sequence would that computed all it did not find; stays locked."""
        match = self.match(tokens, namespace)
        node = self.tree.lock(match)
        rest = tokens[len(match.pages) * PAGE :]
        extension = self.tree.extend(node, token_bytes(rest), self.pool.allocate(-(-len(rest) // PAGE)))
        self.pool.free(extension.unused)
        return extension.node

    def pin(self, tokens: list[int]) -> Pin:
        """Pins a prefix of whole pages that is here."""
        match = self.match(tokens)
        assert match.node is not None
        pin = self.tree.pin(match.node, match.pages)
        assert pin is not None and len(pin.pages) * PAGE == len(tokens)
        return pin

    def store(self, tokens: list[int], namespace: bytes = b"") -> None:
        self.tree.unlock(self.hold(tokens, namespace))
        check_tree(self.tree, [])
        assert self.pool.num_used == self.tree.num_pages


def test_a_match_counts_tokens_inside_a_page() -> None:
    cache = Cache()
    cache.store(list(range(10)))
    assert cache.num_matched(list(range(10))) == 10
    assert cache.num_matched([0, 1, 2, 3, 4, 5, 99]) == 6
    assert cache.num_matched([0, 1, 99]) == 2
    assert cache.num_matched([99]) == 0


def test_the_limit_leaves_tokens_to_compute() -> None:
    cache = Cache()
    cache.store(list(range(8)))
    match = cache.tree.match(b"", token_bytes(range(8)), 7)
    assert len(match.pages) == 1
    assert match.tail is not None and match.tail.num_tokens == 3


def test_of_many_children_the_one_that_shares_most_tokens_gives_the_tail() -> None:
    cache = Cache()
    for third in range(6):
        cache.store([1, 2, third, 7])
    cache.store([1, 9])
    match = cache.match([1, 2, 4, 8])
    assert match.tail is not None and match.tail.num_tokens == 3
    assert match.tail.page == cache.match([1, 2, 4, 7]).pages[0]


def test_a_longer_run_takes_the_place_of_an_unlocked_tail() -> None:
    cache = Cache()
    cache.store([1, 2, 3, 4, 5])
    cache.store([1, 2, 3, 4, 5, 6])
    assert cache.tree.num_pages == 2
    cache.store([1, 2, 3, 4, 5, 6, 7, 8])
    assert cache.tree.num_pages == 2
    assert len(nodes_of(cache.tree)) == 2, "the root and one run"


def test_a_locked_tail_stays_until_its_owner_goes() -> None:
    cache = Cache()
    owner = cache.hold([1, 2])
    page = owner.pages[0]
    cache.hold([1, 2, 3, 4])
    assert page in tree_pages(cache.tree)
    cache.tree.unlock(owner)
    assert page not in tree_pages(cache.tree)


def test_the_owner_extends_its_own_tail_in_place() -> None:
    cache = Cache()
    owner = cache.hold([1, 2])
    page = owner.pages[0]
    extension = cache.tree.extend(owner, token_bytes([1, 2, 3, 4, 5]), [page, *cache.pool.allocate(1)])
    assert extension.unused == []
    assert cache.match([1, 2, 3, 4]).pages == [page]
    assert cache.num_matched([1, 2, 3, 4, 5]) == 5
    cache.tree.unlock(extension.node)
    check_tree(cache.tree, [])


def test_pages_computed_twice_go_back_to_the_caller() -> None:
    cache = Cache()
    first, second = (cache.tree.lock(cache.match([1, 2, 3, 4, 5])) for _ in range(2))
    one = cache.tree.extend(first, token_bytes([1, 2, 3, 4, 5]), cache.pool.allocate(2))
    pages = cache.pool.allocate(2)
    other = cache.tree.extend(second, token_bytes([1, 2, 3, 4, 5]), pages)
    assert one.unused == []
    assert other.unused == pages
    check_tree(cache.tree, [one.node, other.node])


def test_a_lock_of_another_user_does_not_cover_pages_added_later() -> None:
    cache = Cache()
    first = cache.hold([1, 2, 3, 4])
    second = cache.tree.lock(cache.match([1, 2, 3, 4]))
    longer = cache.tree.extend(first, token_bytes([5, 6, 7, 8]), cache.pool.allocate(1)).node
    cache.tree.unlock(longer)
    assert cache.tree.num_evictable_pages == 1
    assert cache.tree.evict(5) == 1
    cache.tree.unlock(second)


def test_the_path_used_least_recently_goes_first_and_page_by_page_from_its_end() -> None:
    cache = Cache()
    cache.store([1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1])
    cache.store([2, 2, 2, 2, 2, 2, 2, 2])
    assert cache.tree.evict(1) == 1
    assert (cache.num_matched([1] * 12), cache.num_matched([2] * 8)) == (8, 8)
    cache.store([1, 1, 1, 1])
    assert cache.tree.evict(2) == 2
    assert (cache.num_matched([1] * 12), cache.num_matched([2] * 8)) == (4, 4)
    assert cache.tree.evict(10) == 2
    assert cache.pool.num_used == 0
    assert nodes_of(cache.tree) == []


def test_locked_pages_are_never_evicted() -> None:
    cache = Cache()
    held = cache.hold([1] * 9)
    cache.tree.unlock(cache.hold([1] * 8 + [2] * 4))
    assert cache.tree.evict(100) == 1
    assert cache.num_matched([1] * 9) == 9
    cache.tree.unlock(held)
    assert cache.tree.evict(100) == 3


def test_events_mirror_the_full_pages_by_their_canonical_hashes() -> None:
    cache = Cache()
    cache.store([1, 2, 3, 4, 5, 6, 7, 8, 9], b"a")
    cache.store([1, 2, 3, 4, 9, 9, 9, 9], b"a")
    long = prefix_hashes(b"a", [1, 2, 3, 4, 5, 6, 7, 8], PAGE)
    short = prefix_hashes(b"a", [1, 2, 3, 4, 9, 9, 9, 9], PAGE)
    stored, removed = CacheEventKind.STORED, CacheEventKind.REMOVED

    def event(kind: CacheEventKind, hashes: list[bytes], num_tokens: int) -> CacheEvent:
        return CacheEvent(kind=kind, namespace=b"a", page_hashes=tuple(hashes), num_tokens=num_tokens)

    assert cache.tree.drain_events() == [event(stored, long, 8), event(stored, short[1:], 8)]
    assert cache.tree.drain_events() == []
    snapshot = {(item.page_hashes, item.num_tokens) for item in cache.tree.snapshot()}
    assert snapshot == {((long[0],), 4), ((long[1],), 8), ((short[1],), 8)}
    cache.tree.evict(2)
    assert cache.tree.drain_events() == [event(removed, long[1:], 8)], "the tail went first and silently"


def test_namespaces_do_not_see_each_other() -> None:
    cache = Cache()
    cache.store([1, 2, 3, 4, 5], b"a")
    assert cache.num_matched([1, 2, 3, 4, 5], b"b") == 0
    cache.store([1, 2, 3, 4, 5], b"b")
    assert cache.tree.num_pages == 4


def test_unlocking_more_often_than_locked_is_an_error() -> None:
    cache = Cache()
    node = cache.hold([1, 2, 3, 4])
    cache.tree.unlock(node)
    with pytest.raises(RuntimeError, match="without a lock"):
        cache.tree.unlock(node)


def test_a_split_under_a_lock_keeps_both_halves_locked() -> None:
    cache = Cache()
    long = cache.hold([1] * 12)
    short = cache.tree.lock(cache.match([1] * 8 + [2]))
    check_tree(cache.tree, [long, short])
    cache.tree.unlock(long)
    assert cache.tree.evict(100) == 1
    cache.tree.unlock(short)
    check_tree(cache.tree, [])


def test_condemned_pages_go_at_once_with_all_that_goes_on_from_them_and_those_before_stay() -> None:
    cache = Cache()
    cache.store(list(range(18)))
    cache.store([*range(12), 50, 51, 52, 53, 54])
    cache.store([*range(4), 60, 61, 62, 63])
    cache.tree.condemn(b"", token_bytes(range(18)), 2)
    check_tree(cache.tree, [])
    assert cache.num_matched(list(range(18))) == cache.num_matched([*range(12), 50, 51]) == 8
    assert cache.num_matched([*range(4), 60, 61, 62, 63]) == 8
    assert cache.tree.num_pages == cache.pool.num_used == 3


def test_condemned_pages_that_someone_uses_are_found_by_nobody_else_and_go_with_the_last_user() -> None:
    cache = Cache()
    first, second = cache.hold(list(range(10))), cache.hold([*range(8), 50])
    cache.tree.condemn(b"", token_bytes(range(10)), 1)
    for query in (list(range(10)), [*range(8), 50]):
        assert cache.num_matched(query) == 4
    cache.tree.unlock(first)
    check_tree(cache.tree, [second])
    assert cache.num_matched(list(range(10))) == 4 and cache.tree.num_locked_pages == 3
    # What is computed anew meanwhile is not taken in beside it.
    third = cache.hold(list(range(10)))
    check_tree(cache.tree, [second, third])
    assert cache.num_matched(list(range(10))) == 4
    cache.tree.unlock(third)
    cache.tree.unlock(second)
    check_tree(cache.tree, [])
    assert cache.tree.num_pages == cache.pool.num_used == 1
    cache.store(list(range(10)))
    assert cache.num_matched(list(range(10))) == 10


def test_a_partly_filled_page_is_condemned_alone_and_one_that_goes_on_differently_is_not() -> None:
    cache = Cache()
    cache.store(list(range(6)))
    cache.store([*range(5), 50, 51, 52])
    cache.tree.condemn(b"", token_bytes(range(6)), 1)
    check_tree(cache.tree, [])
    assert cache.num_matched(list(range(6))) == 5
    cache.tree.condemn(b"", token_bytes(range(6)), 2)
    cache.tree.condemn(b"other", token_bytes(range(6)), 0)
    assert cache.num_matched([*range(5), 50, 51, 52]) == 8


def test_condemned_pages_are_told_as_removed() -> None:
    cache = Cache()
    cache.store(list(range(12)))
    cache.tree.drain_events()
    cache.tree.condemn(b"", token_bytes(range(12)), 1)
    hashes = prefix_hashes(b"", list(range(12)), PAGE)
    assert [(event.kind, event.page_hashes) for event in cache.tree.drain_events()] == [
        (CacheEventKind.REMOVED, tuple(hashes[1:]))
    ]


def test_condemned_pages_that_are_split_stay_condemned() -> None:
    cache = Cache()
    user = cache.hold(list(range(12)))
    cache.tree.condemn(b"", token_bytes(range(12)), 0)
    cache.tree.unlock(cache.hold([*range(8), 50, 51, 52, 53]))
    check_tree(cache.tree, [user])
    assert cache.num_matched(list(range(12))) == cache.num_matched([*range(8), 50, 51, 52, 53]) == 0
    cache.tree.unlock(user)
    check_tree(cache.tree, [])
    assert cache.pool.num_used == 0


def test_pins_go_last_and_of_them_the_one_used_longest_ago_first() -> None:
    cache = Cache()
    for number in (1, 2, 3):
        cache.store([number] * 8)
    older, newer = cache.pin([1] * 8), cache.pin([2] * 8)
    assert cache.tree.num_evictable_pages == 6, "pinned pages can be taken any time"
    assert cache.tree.evict(2) == 2
    assert cache.num_matched([3] * 8) == 0
    assert cache.tree.evict(2) == 2
    assert (older.node, cache.num_matched([1] * 8)) == (None, 0)
    assert newer.node is not None and cache.num_matched([2] * 8) == 8
    cache.tree.unpin(newer)
    cache.store([4] * 4)
    assert cache.tree.evict(2) == 2
    assert cache.num_matched([4] * 4) == 4


def test_a_pin_is_lost_with_the_first_of_its_pages_and_is_no_lock() -> None:
    cache = Cache()
    cache.store([1] * 12)
    pin = cache.pin([1] * 8)
    assert cache.tree.evict(1) == 1 and pin.node is not None
    assert cache.tree.evict(1) == 1 and pin.node is None
    cache.store([1] * 4 + [2] * 4)
    check_tree(cache.tree, [])
    assert cache.tree.evict(32) == 2


def test_a_pin_ends_where_it_did_when_the_run_is_cut_or_grows() -> None:
    cache = Cache()
    owner = cache.hold([1] * 8)
    pin = cache.pin([1] * 8)
    longer = cache.tree.extend(owner, token_bytes([1] * 4), cache.pool.allocate(1)).node
    cache.tree.unlock(longer)
    cache.store([1] * 4 + [2] * 4)
    assert pin.node is not None and pin.pages == cache.match([1] * 8).pages
    match = cache.tree.match(b"", token_bytes([1, 1, 1, 1, 1, 9]), 6, pin)
    assert pin.pages + match.pages == cache.match([1] * 12).pages and match.num_pages == 3
    check_tree(cache.tree, [])


def test_condemned_pages_take_the_pins_of_what_goes_on_from_them_while_they_are_in_use() -> None:
    cache = Cache()
    owner = cache.hold([1] * 12)
    before, after = cache.pin([1] * 4), cache.pin([1] * 12)
    cache.tree.condemn(b"", token_bytes([1] * 8), 1)
    assert before.node is not None and after.node is None
    assert cache.tree.pin(owner, cache.match([1] * 4).pages) is not None
    assert cache.tree.pin(owner, [*before.pages, 0, 0]) is None
    cache.tree.unlock(owner)
    check_tree(cache.tree, [])
