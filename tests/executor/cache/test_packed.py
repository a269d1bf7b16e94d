from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bough.common.prefix_hash import token_bytes
from bough.executor.cache.packed import common_pages, common_tokens

tokens = st.lists(st.sampled_from([0, 1, 256, 2**32 - 1]), max_size=12)


def common(left: list[int], right: list[int]) -> int:
    count = 0
    for one, other in zip(left, right, strict=False):
        if one != other:
            break
        count += 1
    return count


@given(shared=tokens, left=tokens, right=tokens)
def test_common_tokens_counts_equal_leading_tokens(shared: list[int], left: list[int], right: list[int]) -> None:
    left, right = shared + left, shared + right
    assert common_tokens(token_bytes(left), token_bytes(right)) == common(left, right)


@given(shared=tokens, left=tokens, right=tokens, before=tokens, page_size=st.integers(1, 4))
def test_common_pages_counts_equal_leading_whole_pages(
    shared: list[int], left: list[int], right: list[int], before: list[int], page_size: int
) -> None:
    left, right = shared + left, shared + right
    key = token_bytes(before + right)
    run = bytearray(token_bytes(left))
    assert common_pages(run, key, len(before) * 4, page_size * 4) == common(left, right) // page_size
