"""Frames between the grammar service and its compiler process: a JSON header and a body, each with its length."""

from __future__ import annotations

import json
import struct
from typing import Any, BinaryIO, Protocol

_LENGTHS = struct.Struct("<II")


class ByteReader(Protocol):
    """An asyncio.StreamReader, as far as frames need it."""

    async def readexactly(self, n: int) -> bytes:
        """Exactly n bytes; IncompleteReadError at the end."""


def pack(header: dict[str, Any], body: bytes = b"") -> bytes:
    """A frame."""
    encoded = json.dumps(header).encode()
    return _LENGTHS.pack(len(encoded), len(body)) + encoded + body


async def read_async(reader: ByteReader) -> tuple[dict[str, Any], bytes]:
    """The next frame; asyncio.IncompleteReadError when the other side has ended."""
    header_size, body_size = _LENGTHS.unpack(await reader.readexactly(_LENGTHS.size))
    header = json.loads(await reader.readexactly(header_size))
    return header, await reader.readexactly(body_size)


def read(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next frame, waiting for it; None when the other side has ended."""
    lengths = stream.read(_LENGTHS.size)
    if len(lengths) < _LENGTHS.size:
        return None
    header_size, body_size = _LENGTHS.unpack(lengths)
    return json.loads(stream.read(header_size)), stream.read(body_size)
