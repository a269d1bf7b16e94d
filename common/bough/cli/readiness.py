"""Waiting until services listen and the whole chain serves."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from pathlib import Path

_INTERVAL_S = 0.05
"""Only while loading: a failed look costs microseconds, and nothing looks once the chain serves."""


async def until_listening(sockets: Mapping[str, Path], on_up: Callable[[str], None]) -> None:
    """Return once every service has bound its Unix socket; `on_up` is told each."""
    missing = dict(sockets)
    while missing:
        for name in _listening(missing):
            del missing[name]
            on_up(name)
        await asyncio.sleep(_INTERVAL_S)


def _listening(sockets: Mapping[str, Path]) -> list[str]:
    return [name for name, path in sockets.items() if path.exists()]


async def until_ready(host: str, port: int, *, on_wait: Callable[[str], None]) -> None:
    """Return once the gateway's `/ready` answers 200; `on_wait` is told its answer until then."""
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    while True:
        status, body = await _get(target, port, "/ready")
        if status == 200:
            return
        on_wait(_what_is_down(body) if body else "the gateway does not listen yet")
        await asyncio.sleep(_INTERVAL_S)


def _what_is_down(body: str) -> str:
    try:
        return "; ".join(f"{name}: {why}" for name, why in json.loads(body)["down"].items())
    except (ValueError, KeyError, TypeError, AttributeError):
        return body


async def _get(host: str, port: int, path: str) -> tuple[int, str]:
    """Status and body of a GET; status 0 when nothing answers HTTP."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        return 0, ""
    try:
        writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = (await asyncio.wait_for(reader.read(65536), 5.0)).decode("utf-8", "replace")
        head, _, body = answer.partition("\r\n\r\n")
        return int(head.split()[1]), body.strip()
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0, ""
    finally:
        writer.close()
