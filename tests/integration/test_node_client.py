"""A client in another language, made from the protos alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.repository import ROOT
from tests.integration.server import Server

CLIENT = Path(__file__).parent / "node_client"

pytestmark = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client with its packages, in a folder of its own."""
    folder = tmp_path_factory.mktemp("node") / "client"
    shutil.copytree(CLIENT, folder)
    install = ["npm", "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
    done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_a_node_client_generates_checks_health_and_lists_services(client: Path, server: Server) -> None:
    report = _run(client, server)
    assert report["model"]["model"] == "bough-demo"
    assert report["health"] == "SERVING"
    assert "12" in report["chat"]["text"]
    assert report["chat"]["finish_reason"] == "FINISH_REASON_STOP"
    assert report["chat"]["usage"]["completion_tokens"] == len(report["chat"]["token_ids"])
    assert len(report["ids"]["token_ids"]) == 5
    assert report["refusal"]["code"] == 3
    assert "temperature" in report["refusal"]["details"] and "-1" in report["refusal"]["details"]
    assert {"bough.rpc.v1.Inference", "grpc.health.v1.Health"} <= set(report["services"])
    assert report["files"] >= 1


def _run(client: Path, server: Server) -> dict[str, Any]:
    # gRPC of node would take a proxy of the environment for addresses of this machine.
    variables = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    done = subprocess.run(
        ["node", "client.js", f"127.0.0.1:{server.grpc_port}", str(ROOT / "protos")],
        cwd=client,
        capture_output=True,
        text=True,
        timeout=60,
        env=variables,
    )
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report
