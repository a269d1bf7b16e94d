"""Which copies of a service there are: a list of addresses, or a name that is looked up again and again."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable

logger = logging.getLogger(__name__)


async def resolve(address: str, *, before: frozenset[str] = frozenset()) -> frozenset[str]:
    """The single addresses behind a setting.

    `unix:PATH` and `HOST:PORT` stand for themselves, `dns:///HOST:PORT` for every address of the name, and commas
    separate several. A name that does not exist stands for nothing. While no name server answers, the address stands
    for what it did `before`.
    """
    found: set[str] = set()
    for part in filter(None, (piece.strip() for piece in address.split(","))):
        if not part.startswith("dns:///"):
            found.add(part)
            continue
        host, _, port = part.removeprefix("dns:///").rpartition(":")
        try:
            infos = await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            if isinstance(error, socket.gaierror) and error.errno == socket.EAI_AGAIN:
                return before
            continue
        for family, _, _, _, sockaddr in infos:
            ip = f"[{sockaddr[0]}]" if family == socket.AF_INET6 else str(sockaddr[0])
            found.add(f"{ip}:{port}")
    return frozenset(found)


async def watch(address: str, on_change: Callable[[frozenset[str]], None], *, interval_s: float = 2.0) -> None:
    """Tell the copies of a service, at once and after each change, until cancelled."""
    known: frozenset[str] | None = None
    while True:
        found = await resolve(address, before=known or frozenset())
        if found != known:
            logger.debug("%s stands for %s", address, sorted(found))
            known = found
            on_change(found)
        if "dns:///" not in address:
            await asyncio.Event().wait()  # a fixed list never changes; wait for the cancellation
        await asyncio.sleep(interval_s)
