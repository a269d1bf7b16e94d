"""A client that goes away frees its rows and pages."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import pytest

from tests.integration.server import Server, wait_until

LONG = {"prompt": "Once upon a time", "max_tokens": 3500, "ignore_eos": True, "temperature": 0}
FREED_WITHIN_S = 3.0
"""A request of LONG runs several times as long; freeing takes milliseconds, looking for it is what takes long."""


@contextmanager
def _connection(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60, trust_env=False) as client:
        yield client


def _rows(server: Server) -> float:
    return server.metrics().total("bough_batch_rows")


def test_a_streaming_client_that_leaves_frees_its_rows_and_pages(server: Server) -> None:
    with (
        _connection(server) as client,
        client.stream("POST", "/v1/completions", json={**LONG, "stream": True, "n": 4}) as r,
    ):
        lines = r.iter_lines()
        next(lines)
        wait_until(lambda: _rows(server) == 4, "four rows run")
        assert server.metrics().total("bough_kv_pages", state="used") > 0
    server.wait_idle(timeout_s=FREED_WITHIN_S)


def test_a_waiting_client_that_leaves_frees_its_rows_and_pages(server: Server) -> None:
    with _connection(server) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/completions", json={**LONG, "n": 4}, timeout=httpx.Timeout(10, read=0.7))
    server.wait_idle(timeout_s=FREED_WITHIN_S)


def test_a_client_that_stops_reading_is_no_reason_to_stop_others(server: Server) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    body = '{"prompt": "Once upon a time", "max_tokens": 3500, "ignore_eos": true, "stream": true, "n": 8}'
    with socket.create_connection((host, int(port))) as stuck:
        stuck.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())
        wait_until(lambda: _rows(server) == 8, "eight rows run")
        assert server.post("/v1/completions", prompt="Hello", max_tokens=20).status_code == 200
    server.wait_idle(timeout_s=FREED_WITHIN_S)
