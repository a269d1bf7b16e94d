"""Channel options of both sides; the traps they avoid are noted beside them."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 64 * 1024 * 1024
"""Bound of one message both ways; a prompt of a million tokens takes 5 MB."""

_COMMON: list[tuple[str, int | str]] = [
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    # Streams may be silent for minutes while a long prompt waits: pings must be allowed without data, and must
    # never count as abuse, or the connection ends with GOAWAY too_many_pings.
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
]

SERVER_OPTIONS: list[tuple[str, int | str]] = [
    *_COMMON,
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 0),
    # Two processes on one port would silently share its connections.
    ("grpc.so_reuseport", 0),
]

SHARED_PORT_OPTIONS: list[tuple[str, int | str]] = [
    *(option for option in SERVER_OPTIONS if option[0] != "grpc.so_reuseport"),
    ("grpc.so_reuseport", 1),
]
"""For copies of a service that share a TCP port on purpose: the kernel spreads its connections over them."""

CONNECTION_AGE_S = 30.0
"""After about so long a server ends a connection whose calls are spread over copies; calls under way go on. Channels
look a name up only when a connection ends: without this a copy that is new would get nothing from callers that run."""


def aged(options: list[tuple[str, int | str]], age_s: float) -> list[tuple[str, int | str]]:
    """Options of a server whose connections end after about `age_s`."""
    return [*options, ("grpc.max_connection_age_ms", int(age_s * 1000))]


CHANNEL_OPTIONS: list[tuple[str, int | str]] = [
    *_COMMON,
    # pick_first would send every call to one copy of a scaled service.
    ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}'),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # A name is looked up again when a connection ends, though not more often than this.
    ("grpc.dns_min_time_between_resolutions_ms", 2_000),
    # Each channel its own connection, so that a busy stream and a bulk transfer do not share flow control.
    ("grpc.use_local_subchannel_pool", 1),
    # Unix sockets and service names never go through an HTTP proxy of the environment.
    ("grpc.enable_http_proxy", 0),
]
