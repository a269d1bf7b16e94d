"""Copies of a service behind a gateway: who is called, and who is passed over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import pytest

from bough.gateway.detokenizers import share_of
from bough.gateway.peers import Tokenizer, retry_policy
from tests.gateway.fakes import FakeChain


@pytest.fixture
async def chain() -> AsyncIterator[FakeChain]:
    chain = FakeChain()
    await chain.start_service("tokenizer1")
    yield chain
    await chain.stop()


async def test_a_copy_that_is_dead_is_passed_over(chain: FakeChain) -> None:
    tokenizer = Tokenizer(f"{chain.address('tokenizer1')},{chain.address('tokenizer2')}", retry_policy(0))
    dead = tokenizer.peer.channels[1]
    async with asyncio.timeout(10):
        while (state := dead.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
            await dead.wait_for_state_change(state)
    for _ in range(6):
        await tokenizer.check(chain.identity)  # one attempt each
    await chain.start_service("tokenizer2")
    await chain.kill("tokenizer1")
    assert await tokenizer.encode(["ab"]), "it is used again, by a call that may try again"
    await tokenizer.peer.close()


@pytest.mark.parametrize("num_copies", [1, 2, 3, 5])
@pytest.mark.parametrize("num_gateways", [1, 2, 3, 4, 7])
def test_every_gateway_has_a_copy_and_every_copy_a_gateway(num_gateways: int, num_copies: int) -> None:
    addresses = frozenset(f"unix:/r/{i}.sock" for i in range(num_copies))
    shares = [share_of(addresses, gateway, num_gateways) for gateway in range(num_gateways)]
    assert all(shares)
    assert frozenset[str]().union(*shares) == addresses
    assert sum(map(len, shares)) == max(num_gateways, num_copies), "no pair talks that need not"
    sizes = [sum(address in share for share in shares) for address in addresses]
    assert max(sizes) - min(sizes) <= 1


def test_a_share_of_no_copies_is_empty() -> None:
    assert share_of([], 1, 2) == frozenset()
