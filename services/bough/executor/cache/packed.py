"""Comparing runs of tokens packed as little-endian uint32, without a loop over tokens."""

from __future__ import annotations

import numpy as np

from bough.common.prefix_hash import TOKEN_BYTES


def common_pages(run: bytes | bytearray, key: bytes, start: int, page_bytes: int) -> int:
    """How many whole pages of `run` and of `key[start:]` are equal, counted from their beginnings (bytes)."""
    size = min(len(run), len(key) - start) // page_bytes * page_bytes
    if size == len(run):
        if key.startswith(run, start):
            return size // page_bytes
    elif key[start : start + size] == run[:size]:
        return size // page_bytes
    left = np.frombuffer(run, np.uint8, size)
    right = np.frombuffer(key, np.uint8, size, start)
    return int(np.argmax(left != right)) // page_bytes


def common_tokens(left: bytes, right: bytes) -> int:
    """How many leading tokens of two packed runs (up to a page long) are equal."""
    size = min(len(left), len(right))
    difference = int.from_bytes(left[:size], "big") ^ int.from_bytes(right[:size], "big")
    return (size * 8 - difference.bit_length()) // (8 * TOKEN_BYTES)
