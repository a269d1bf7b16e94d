"""`bough health`: a gRPC health probe for containers. Imports nothing but grpc, since it runs again and again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

READY_SERVICE = "bough.ready"
"""As in `bough.common.rpc.server`, which would bring the whole server side with it."""


def run(argv: Sequence[str]) -> int:
    """Probe an address; returns 0 when the service answers SERVING and 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="bough health", description="Ask a service over gRPC whether it is alive, or ready with --ready."
    )
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT or unix:PATH")
    parser.add_argument("--ready", action="store_true", help="ask whether it and everything behind it can serve")
    parser.add_argument("--timeout-s", type=float, default=3.0, metavar="S", help="how long to wait (default 3)")
    options = parser.parse_args(argv)
    status = probe(options.address, READY_SERVICE if options.ready else "", timeout_s=options.timeout_s)
    print(status, file=sys.stdout if status == "SERVING" else sys.stderr)
    return 0 if status == "SERVING" else 1


def probe(address: str, service: str, *, timeout_s: float) -> str:
    """The answer of the standard health service as its enum's name, or why there is none."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            response = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=timeout_s, wait_for_ready=True
            )
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))
