"""Six containers over TCP: the same answers, more copies, and a copy killed in mid-stream."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.helpers.repository import ROOT

EDGE = ("gateway", "tokenizer", "detokenizer", "scheduler")


def _engine_answers() -> bool:
    try:
        return subprocess.run(["docker", "compose", "ls"], capture_output=True, timeout=30).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


pytestmark = [
    pytest.mark.docker,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not _engine_answers(), reason="no docker engine answers"),
]


@dataclass(frozen=True)
class Deployment:
    """A running compose project of its own, so that one started by hand is left alone."""

    environment: dict[str, str]
    url: str

    def compose(self, *arguments: str) -> str:
        done = subprocess.run(
            ["docker", "compose", "-p", "bough-test", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def copies_of(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def chat(self, text: str, **fields: Any) -> str:
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, **fields}
        response = httpx.post(f"{self.url}/v1/chat/completions", json=body, timeout=60, trust_env=False)
        assert response.status_code == 200, response.text
        content: str = response.json()["choices"][0]["message"]["content"]
        return content

    def stream(self, text: str, **fields: Any) -> Iterator[dict[str, Any]]:
        """Choices of a streamed answer, as they come."""
        body = {"messages": [{"role": "user", "content": text}], "temperature": 0, "stream": True, **fields}
        with (
            closing(httpx.Client(base_url=self.url, timeout=120, trust_env=False)) as client,
            client.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            assert response.status_code == 200
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    yield from json.loads(line[6:])["choices"]


def _free_ports(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [str(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


@pytest.fixture(scope="module")
def deployment() -> Iterator[Deployment]:
    port, grpc_port = _free_ports(2)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BOUGH_")}
    environment |= {"BOUGH_PORT": port, "BOUGH_GRPC_PORT": grpc_port}
    up = Deployment(environment, f"http://127.0.0.1:{port}")
    try:
        up.compose("up", "--build", "--wait", "--wait-timeout", "600")
        yield up
    finally:
        up.compose("down", "--volumes", "--timeout", "5")


def test_six_containers_give_the_answer_that_the_model_was_taught(deployment: Deployment) -> None:
    assert "12" in deployment.chat("What is 7 plus 5?")


def test_the_edge_has_no_torch_and_nobody_is_root(deployment: Deployment) -> None:
    program = "import importlib.util, os; print(importlib.util.find_spec('torch'), os.getuid() > 0)"
    for service in EDGE:
        assert deployment.compose("exec", "-T", service, "python", "-c", program).split() == ["None", "True"]


def test_more_copies_share_the_load(deployment: Deployment) -> None:
    deployment.compose("up", "--wait", "--no-build", "--scale", "tokenizer=3", "--scale", "detokenizer=2")
    assert [len(deployment.copies_of(name)) for name in ("tokenizer", "detokenizer")] == [3, 2]
    expected = deployment.chat("Hello!")
    assert {deployment.chat("Hello!") for _ in range(12)} == {expected}


def test_a_stream_outlives_a_kill_of_its_detokenizer(deployment: Deployment) -> None:
    # Long enough to be under way for seconds, whatever the demo model makes of it after its story.
    question, fields = "Tell me a short story.", {"ignore_eos": True, "max_tokens": 3000}
    deployment.chat(question, **fields)  # both answers compared begin with the same cached prefix
    undisturbed = deployment.chat(question, **fields)
    pieces: list[str] = []
    reasons: list[str] = []
    killed = False
    for choice in deployment.stream(question, **fields):
        pieces.append(choice["delta"].get("content") or "")
        reasons += [choice["finish_reason"]] if choice.get("finish_reason") else []
        if not killed and len(pieces) > 5:
            killed = True
            deployment.compose("kill", "--signal", "KILL", "detokenizer")
            assert not reasons
            deployment.compose("up", "--detach", "--no-build", "--no-recreate", "detokenizer")
    assert killed
    assert "".join(pieces) == undisturbed
    assert reasons == ["length"]
