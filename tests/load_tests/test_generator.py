from __future__ import annotations

import asyncio
import dataclasses

from bough.load.generator import Generator, Plan
from bough.load.scenarios import Arrivals, Options, Request, tokens
from tests.load_tests.fake_server import FakeServer, stream_of

OPTIONS = Options(model="m", prompt_tokens=3, output_tokens=4)
ANSWER = stream_of(["a", "b"], completion_tokens=4)


async def test_a_closed_loop_keeps_so_many_under_way_and_makes_all_requests() -> None:
    async with FakeServer(ANSWER) as server:
        server.gate.clear()
        plan = Plan(arrivals=Arrivals(concurrency=3), num_requests=10)
        running = asyncio.create_task(Generator(server.target, tokens(OPTIONS), plan).run())
        await server.until_arrived(3)
        server.gate.set()
        summary = await running
    assert (summary["completed"], summary["errors"]) == (10, {})
    assert server.most_under_way == 3
    assert (summary["output_tokens"], summary["prompt_tokens"], summary["cached_tokens"]) == (40, 50, 20)
    assert summary["chunks"] == 20
    assert summary["output_tokens_per_s"] > 0


async def test_an_open_loop_does_not_wait_for_answers() -> None:
    async with FakeServer(ANSWER) as server:
        server.gate.clear()
        plan = Plan(arrivals=Arrivals(rate_per_s=10_000.0), num_requests=8)
        running = asyncio.create_task(Generator(server.target, tokens(OPTIONS), plan).run())
        await server.until_arrived(8)  # though none was answered
        server.gate.set()
        summary = await running
    assert summary["completed"] == 8
    assert "largest_lag_ms" in summary


async def test_a_burst_comes_at_once() -> None:
    async with FakeServer(ANSWER) as server:
        server.gate.clear()
        # The second burst would come in an hour.
        plan = Plan(arrivals=Arrivals(rate_per_s=6 / 3600, burst=6), num_requests=12)
        running = asyncio.create_task(Generator(server.target, tokens(OPTIONS), plan).run())
        await server.until_arrived(6)
        running.cancel()
        await asyncio.wait({running})
    assert len(server.bodies) == 6


async def test_errors_are_counted_by_kind_and_not_in_the_durations() -> None:
    refusal = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length: 2\r\n\r\n{}"
    async with FakeServer(refusal) as server:
        plan = Plan(arrivals=Arrivals(concurrency=2), num_requests=5)
        generator = Generator(server.target, tokens(OPTIONS), plan)
        summary = await generator.run()
    assert summary["errors"] == {"http 429": 5}
    assert summary["completed"] == generator.tally.e2e.count == 0
    assert generator.progress == 1.0


async def test_clients_that_go_away_are_neither_errors_nor_completed() -> None:
    def requests() -> list[Request]:
        stay = Request(path="/v1/completions", body={}, label="stay")
        return [stay, dataclasses.replace(stay, label="leave", stop_after=1)] * 2

    async with FakeServer(ANSWER) as server:
        plan = Plan(arrivals=Arrivals(concurrency=1), num_requests=4)
        summary = await Generator(server.target, iter(requests()), plan).run()
    assert (summary["completed"], summary["went_away"], summary["errors"]) == (2, 2, {})
    assert summary["by_label"]["leave"]["completed"] == 0


async def test_a_load_ends_after_its_duration() -> None:
    async with FakeServer(ANSWER) as server:
        plan = Plan(arrivals=Arrivals(concurrency=2), duration_s=0.05)
        generator = Generator(server.target, tokens(OPTIONS), plan)
        summary = await generator.run()
    assert summary["completed"] == len(server.bodies) > 0
