"""A client that forks a state many times, generates on all branches, and says so: to be killed in the middle of it."""

from __future__ import annotations

import asyncio
import sys

import grpc.aio

from bough.rpc.v1 import program_pb2 as pb
from tests.gateway.programs.client import ProgramClient, fork, gen, text


async def main(address: str, lease_s: int, num_branches: int) -> None:
    """Never ends by itself."""
    async with grpc.aio.insecure_channel(address) as channel:
        client = ProgramClient(channel, pb.OpenProgram(lease_s=lease_s))
        await client.start()
        await client.do(extend=text(0, "Once upon a time there was a lighthouse whose keeper " * 8))
        states = range(1, num_branches + 1)
        await client.do(fork=fork(0, *states))
        numbers = [await client.send(generate=gen(state, max_tokens=3000, ignore_eos=True)) for state in states]
        for number in numbers:
            await client.begun[number].wait()
        # Forks that nobody will see the answer of.
        for state in states:
            await client.send(fork=fork(0, 10_000 + state))
        print(client.opened.program, flush=True)  # noqa: T201  # who started this waits for it
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
