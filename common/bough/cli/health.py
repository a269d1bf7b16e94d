"""`bough health`: a gRPC health probe for containers. Imports nothing but grpc, since it runs again and again."""

from __future__ import annotations

import argparse
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

READY_SERVICE = "bough.ready"
"""As in `bough.common.rpc.server`, which would bring the whole server side with it."""

_SERVING = "SERVING"


def run(argv: Sequence[str]) -> int:
    """Probe an address, or every socket of a folder; returns 0 when all answer SERVING and 1 otherwise."""
    parser = argparse.ArgumentParser(
        prog="bough health", description="Ask a service over gRPC whether it is alive, or ready with --ready."
    )
    parser.add_argument("address", metavar="ADDRESS", help="HOST:PORT, unix:PATH, or the run_dir of a launcher")
    parser.add_argument("--ready", action="store_true", help="ask whether it and everything behind it can serve")
    parser.add_argument("--timeout-s", type=float, default=3.0, metavar="S", help="how long to wait (default 3)")
    options = parser.parse_args(argv)
    service = READY_SERVICE if options.ready else ""
    if Path(options.address).is_dir():
        return _probe_folder(Path(options.address), service, timeout_s=options.timeout_s)
    status = probe(options.address, service, timeout_s=options.timeout_s)
    print(status, file=sys.stdout if status == _SERVING else sys.stderr)
    return 0 if status == _SERVING else 1


def _probe_folder(folder: Path, service: str, *, timeout_s: float) -> int:
    """A line for each process that listens in a launcher's folder."""
    found = {path.stem: probe(f"unix:{path}", service, timeout_s=timeout_s) for path in sorted(folder.glob("*.sock"))}
    if not found:
        print(f"no service has a socket in {folder}", file=sys.stderr)
        return 1
    width = max(map(len, found))
    for name, status in found.items():
        print(f"{name:<{width}}  {status}", file=sys.stdout if status == _SERVING else sys.stderr)
    return int(any(status != _SERVING for status in found.values()))


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
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                return f"no answer from {address} within {timeout_s:g} s: {_reason(address, timeout_s)}"
            return f"{error.code().name}: {error.details()}"
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(response.status))


def _reason(address: str, timeout_s: float) -> str:
    """Why nobody answers, as a plain connection tells it: gRPC keeps that to itself until the time is over."""
    try:
        if address.startswith("unix:"):
            with socket.socket(socket.AF_UNIX) as probe_socket:
                probe_socket.settimeout(timeout_s)
                probe_socket.connect(address.removeprefix("unix:"))
        else:
            host, _, port = address.rpartition("/")[2].rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except ValueError:
        return "an address is HOST:PORT or unix:PATH"
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return "it takes connections but does not speak gRPC, or is stuck"
