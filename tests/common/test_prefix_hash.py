from __future__ import annotations

from hashlib import blake2b

import pytest

from bough.common.prefix_hash import prefix_hashes, root_hash, token_bytes


def test_tokens_are_packed_as_little_endian_uint32() -> None:
    assert token_bytes([1, 2**31 + 5]) == bytes([1, 0, 0, 0, 5, 0, 0, 128])


@pytest.mark.parametrize("token", [-1, 2**32])
def test_a_token_that_is_no_uint32_is_refused(token: int) -> None:
    with pytest.raises(OverflowError):
        token_bytes([token])


def test_page_hashes_are_chained_from_the_namespace_over_full_pages_only() -> None:
    first = blake2b(blake2b(b"tenant", digest_size=16).digest() + token_bytes([1, 2]), digest_size=16).digest()
    second = blake2b(first + token_bytes([3, 4]), digest_size=16).digest()
    assert prefix_hashes(b"tenant", [1, 2, 3, 4, 5], 2) == [first, second]
    assert prefix_hashes(b"other", [1, 2], 2) != [first]
    assert root_hash(b"") != root_hash(b"tenant")
