"""Canonical names of token prefixes: a hash per page, chained over the pages before it.

The executor tells the scheduler which pages its cache holds by these hashes, and the scheduler computes them for a
prompt to see how much of it is cached where. The bytes are fixed, so that any language can compute them:

    root(namespace)      = BLAKE2b-128(namespace)
    page(parent, tokens) = BLAKE2b-128(parent hash, 16 bytes | each token id as little-endian uint32)

A page hash is defined for full pages only.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterable, Sequence
from hashlib import blake2b

HASH_BYTES = 16
"""Length of a hash: short on the wire, and a collision can only mislead a routing hint, never a token."""

TOKEN_BYTES = 4
"""Length of a token id in its canonical form, a little-endian uint32."""


def token_bytes(tokens: Iterable[int]) -> bytes:
    """Packs token ids as little-endian uint32.

    Raises:
        OverflowError: an id is negative or does not fit in 32 bits.
    """
    packed = array("I", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def root_hash(namespace: bytes) -> bytes:
    """The hash that the first page of a namespace (tenant salt, adapter) is chained to."""
    return blake2b(namespace, digest_size=HASH_BYTES).digest()


def page_hash(parent: bytes, page: bytes) -> bytes:
    """The hash of a full page, given the hash of the page before it and its tokens as `token_bytes` packs them."""
    return blake2b(parent + page, digest_size=HASH_BYTES).digest()


def prefix_hashes(namespace: bytes, tokens: Sequence[int], page_size: int) -> list[bytes]:
    """The chained hashes of all full pages of `tokens`, first page first."""
    page_bytes = page_size * TOKEN_BYTES
    key = token_bytes(tokens)
    hashes: list[bytes] = []
    parent = root_hash(namespace)
    for start in range(0, len(key) - page_bytes + 1, page_bytes):
        parent = page_hash(parent, key[start : start + page_bytes])
        hashes.append(parent)
    return hashes
