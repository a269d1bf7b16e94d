from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from bough.common.config import Settings
from bough.gateway.service import GatewayService
from tests.gateway.fakes import FakeChain


@dataclass
class Deployment:
    """A gateway under test, what is behind it and a client in front of it."""

    chain: FakeChain
    service: GatewayService
    client: httpx.AsyncClient

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.service.gateway.http_port}"

    @property
    def grpc_address(self) -> str:
        return f"127.0.0.1:{self.service.gateway.grpc_port}"


Deploy = Callable[..., Awaitable[Deployment]]


@pytest.fixture
async def deploy() -> AsyncIterator[Deploy]:
    running: list[Deployment] = []

    async def start(*, num_detokenizers: int = 1, **settings: Any) -> Deployment:
        chain = FakeChain(num_detokenizers)
        await chain.start()
        values: dict[str, Any] = {
            "model": chain.model,
            "port": 0,
            "tokenizer_address": chain.address("tokenizer"),
            "grammar_address": chain.address("grammar"),
            "scheduler_address": chain.address("scheduler"),
            "detokenizer_address": chain.detokenizer_addresses,
            **settings,
        }
        service = GatewayService(Settings(**values))
        await service.start()
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{service.gateway.http_port}", timeout=20, transport=httpx.AsyncHTTPTransport()
        )
        running.append(Deployment(chain, service, client))
        return running[-1]

    yield start
    for deployment in running:
        await deployment.client.aclose()
        await deployment.service.stop()
        await deployment.chain.stop()


@pytest.fixture
async def deployment(deploy: Deploy) -> Deployment:
    return await deploy()
