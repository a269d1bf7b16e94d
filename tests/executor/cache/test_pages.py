from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bough.executor.cache import PagePool


def test_pages_are_handed_out_once_until_they_come_back() -> None:
    pool = PagePool(num_pages=5, page_size=16)
    first, second = pool.allocate(2), pool.allocate(3)
    assert sorted(first + second) == [0, 1, 2, 3, 4]
    assert (pool.num_free, pool.num_used) == (0, 5)
    pool.free(first)
    assert sorted(pool.allocate(2)) == sorted(first)


def test_allocating_more_than_is_free_hands_out_nothing() -> None:
    pool = PagePool(num_pages=2)
    assert not pool.can_allocate(3)
    with pytest.raises(MemoryError, match="3 pages wanted, 2 of 2 free"):
        pool.allocate(3)
    assert pool.num_free == 2


def test_freeing_a_page_twice_is_an_error() -> None:
    pool = PagePool(num_pages=2)
    (page,) = pool.allocate(1)
    pool.free([page])
    with pytest.raises(ValueError, match=f"page {page} is not in use"):
        pool.free([page])


def test_a_pool_without_pages_is_refused() -> None:
    with pytest.raises(ValueError, match="must be positive"):
        PagePool(num_pages=0)


@given(st.lists(st.integers(min_value=-4, max_value=4), max_size=40))
def test_free_and_used_add_up_and_no_page_has_two_owners(sizes: list[int]) -> None:
    pool = PagePool(num_pages=12)
    owned: list[int] = []
    for size in sizes:
        if size < 0:
            pool.free(owned[:-size])
            del owned[:-size]
        elif pool.can_allocate(size):
            owned += pool.allocate(size)
        assert len(set(owned)) == len(owned) == pool.num_used
        assert pool.num_free + pool.num_used == 12
