"""Which backend a program runs on where it is not told."""

from __future__ import annotations

import os
from typing import ClassVar

from bough.client.client import default_url
from bough.lang.backends.base import Backend
from bough.lang.backends.bough import Bough


class _Process:
    """What is set for the whole process: there is no narrower place that all threads and tasks of a user share."""

    backend: Backend | None = None
    servers: ClassVar[dict[str, Bough]] = {}
    """By address: programs that run side by side share its connections."""


def set_default_backend(backend: Backend | str | None) -> None:
    """Run programs on this backend, or on the server at this address, where they are told no other; None: as before."""
    _Process.backend = backend_at(backend) if isinstance(backend, str) else backend


def find_backend(backend: Backend | str | None) -> Backend:
    """This one; else the default one; else the server that BOUGH_URL names; else the one on this machine."""
    if backend is None:
        backend = _Process.backend or default_url()
    return backend_at(backend) if isinstance(backend, str) else backend


def backend_at(url: str) -> Backend:
    """The backend for a server of ours, the same one each time: gRPC at BOUGH_GRPC_PORT, else one after REST."""
    if url not in _Process.servers:
        port = os.environ.get("BOUGH_GRPC_PORT")
        key = os.environ.get("BOUGH_API_KEY") or None
        _Process.servers[url] = Bough(url, grpc_port=int(port) if port else None, api_key=key)
    return _Process.servers[url]
