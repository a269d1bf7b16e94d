from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio
import pytest

from tests.gateway.conftest import Deployment
from tests.gateway.programs.client import ProgramClient


@pytest.fixture
async def channel(deployment: Deployment) -> AsyncIterator[grpc.aio.Channel]:
    deployment.chain.backend.has_eos = True
    async with grpc.aio.insecure_channel(deployment.grpc_address) as channel:
        yield channel


@pytest.fixture
async def client(channel: grpc.aio.Channel) -> AsyncIterator[ProgramClient]:
    """A client with a new program."""
    async with ProgramClient(channel) as client:
        yield client
