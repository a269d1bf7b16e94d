"""One server for most of these tests: starting one takes seconds, and what it outlives is part of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.collector import Collector
from tests.integration.server import Server


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """An OpenTelemetry collector."""
    with Collector() as running:
        yield running


@pytest.fixture(scope="session")
def shared_server(collector: Collector) -> Iterator[Server]:
    """The demo model in float32, so that arithmetic does not depend on the batch, with traces sent to the collector."""
    with Server("--dtype", "float32", "--otlp-endpoint", collector.endpoint) as running:
        yield running


@pytest.fixture
def server(shared_server: Server) -> Server:
    """The shared server with the whole chain ready and nothing under way."""
    shared_server.wait_ready()
    shared_server.wait_idle()
    return shared_server
