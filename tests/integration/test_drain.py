"""SIGTERM to the launcher in mid-stream: what was accepted is finished, what is new is refused."""

from __future__ import annotations

import asyncio

from tests.integration.client import Outcome, open_client, stream
from tests.integration.server import Server
from tests.integration.workload import streams


async def _drained(server: Server) -> list[Outcome]:
    under_way = asyncio.Event()
    seen: set[int] = set()

    async with open_client(server.url) as client:
        jobs = streams(num_tokens=160)
        running = []
        for number, job in enumerate(jobs):

            def note(number: int = number) -> None:
                seen.add(number)
                if len(seen) == len(jobs):
                    under_way.set()

            running.append(asyncio.create_task(stream(client, job, note)))
        await under_way.wait()
        assert not any(task.done() for task in running)
        server.terminate()
        return list(await asyncio.gather(*running))


def test_a_drain_loses_nothing() -> None:
    with Server("--dtype", "float32") as server:
        expected = asyncio.run(_undisturbed(server))
        outcomes = asyncio.run(_drained(server))
        assert [outcome.error for outcome in outcomes] == [""] * len(outcomes)
        assert [outcome.content for outcome in outcomes] == [outcome.content for outcome in expected]
        assert server.wait_end() == 0
        assert "Traceback" not in server.log


async def _undisturbed(server: Server) -> list[Outcome]:
    async with open_client(server.url) as client:
        return list(await asyncio.gather(*(stream(client, job) for job in streams(num_tokens=160))))
