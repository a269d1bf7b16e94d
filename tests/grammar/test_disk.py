"""Compiled grammars on disk: whole or not there, and bounded."""

from __future__ import annotations

import os
import random
import struct
from hashlib import sha256
from pathlib import Path

import pytest

from bough.grammar.disk import DiskCache

KEYS = [bytes([i]) * 32 for i in range(4)]
HEADER_BYTES = 56
NOISE = random.Random(1).randbytes(100)
"""Does not compress."""
NOISE_BYTES = HEADER_BYTES + len(NOISE) + 11


def test_what_was_written_is_read_by_another_service(tmp_path: Path) -> None:
    DiskCache(tmp_path / "a" / "b", 10_000).write(KEYS[0], b"data" * 100)
    cache = DiskCache(tmp_path / "a" / "b", 10_000)
    assert cache.read(KEYS[0]) == b"data" * 100
    assert cache.read(KEYS[1]) is None
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [KEYS[0].hex() + ".grammar"]


@pytest.mark.parametrize("damage", ["cut", "longer", "one bit", "other magic", "empty"])
def test_a_damaged_file_is_removed_and_not_read(tmp_path: Path, damage: str) -> None:
    cache = DiskCache(tmp_path, 10_000)
    cache.write(KEYS[0], b"data" * 100)
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    flipped = content[:-1] + bytes([content[-1] ^ 1])
    path.write_bytes(
        {
            "cut": content[:-10],
            "longer": content + b"x",
            "one bit": flipped,
            "other magic": b"x" + content[1:],
            "empty": b"",
        }[damage]
    )
    assert cache.read(KEYS[0]) is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("magic", [b"bough-grammar-1\n", b"bough-grammar-2\n"], ids=["of before", "of now"])
def test_a_whole_file_that_is_not_compressed_is_removed_and_not_read(tmp_path: Path, magic: bytes) -> None:
    cache, data = DiskCache(tmp_path, 10_000), b"data" * 100
    header = struct.pack("<16sQ32s", magic, len(data), sha256(data).digest())
    (tmp_path / f"{KEYS[0].hex()}.grammar").write_bytes(header + data)
    assert cache.read(KEYS[0]) is None
    assert list(tmp_path.iterdir()) == []


def test_what_repeats_itself_takes_less_of_the_bound(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 1000)
    cache.write(KEYS[0], b"data" * 10_000)
    assert cache.read(KEYS[0]) == b"data" * 10_000


def test_what_was_used_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 3 * NOISE_BYTES)
    for index, key in enumerate(KEYS[:3]):
        cache.write(key, NOISE)
        os.utime(tmp_path / f"{key.hex()}.grammar", (index, index))
    cache.read(KEYS[0])
    cache.write(KEYS[3], NOISE)
    assert [cache.read(key) is not None for key in KEYS] == [True, False, True, True]


def test_what_a_dead_service_left_half_written_goes_after_a_while(tmp_path: Path) -> None:
    old, new = tmp_path / "a.1-0.tmp", tmp_path / "b.2-0.tmp"
    old.touch()
    new.touch()
    os.utime(old, (0, 0))
    DiskCache(tmp_path, 10_000).write(KEYS[0], b"x")
    assert not old.exists() and new.exists()


def test_a_value_beyond_the_bound_is_not_written(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100)
    cache.write(KEYS[0], NOISE)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    cache = DiskCache(tmp_path / "file", 1000)
    cache.write(KEYS[0], b"x")
    assert cache.read(KEYS[0]) is None
    assert "cannot keep a compiled grammar" in caplog.text
