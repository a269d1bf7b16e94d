"""The public ports: chosen, checked, and where several gateways share them, held by the launcher.

The REST port's listening socket is made here and inherited by every gateway, so that whichever is free accepts the next
connection: one that waits when a gateway dies is taken by another, and none is refused while one restarts. gRPC takes
no socket of somebody else's, so there each gateway binds the port for itself (SO_REUSEPORT), and the launcher keeps it
bound without listening, lest it goes to another program while gateways restart.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

from bough.common.config import ConfigError, Settings

_BACKLOG = 2048


def with_ports(settings: Settings) -> Settings:
    """Settings whose ports are real ones: 0 becomes a free one. ConfigError when a port is taken."""
    with (
        _claim(settings.host, settings.port, "port") as http,
        _claim(settings.host, _grpc_port(settings), "grpc_port") as rpc,
    ):
        return _with_numbers(settings, http, rpc)


@contextlib.contextmanager
def shared_ports(settings: Settings) -> Iterator[socket.socket | None]:
    """The listening socket of the REST port, for all gateways; None where there is one gateway, which binds by itself.

    Args:
        settings: With real ports (`with_ports`).

    Raises:
        ConfigError: A port was taken meanwhile.
    """
    if settings.copies_of("gateway") == 1 or settings.grpc_port is None:
        yield None
        return
    with _claim(settings.host, settings.port, "port") as http:
        http.listen(_BACKLOG)
        http.setblocking(False)
        # Bound alone before it is bound as a shared one: sharing would also be granted beside another program's port.
        _claim(settings.host, settings.grpc_port, "grpc_port").close()
        with _claim(settings.host, settings.grpc_port, "grpc_port", shared=True):
            yield http


def _grpc_port(settings: Settings) -> int:
    if settings.grpc_port is not None:
        return settings.grpc_port
    return settings.port + 1 if settings.port else 0


def _with_numbers(settings: Settings, http: socket.socket, rpc: socket.socket) -> Settings:
    return settings.model_copy(update={"port": http.getsockname()[1], "grpc_port": rpc.getsockname()[1]})


def _claim(host: str, port: int, name: str, *, shared: bool = False) -> socket.socket:
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        sock = socket.socket(info[0], socket.SOCK_STREAM)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT if shared else socket.SO_REUSEADDR, 1)
            sock.bind(info[4])
        except OSError:
            sock.close()
            raise
    except OSError as error:
        raise ConfigError(f"{name} {port} of {host} cannot be used ({error}); choose another with --{name}") from None
    return sock
