from __future__ import annotations

import asyncio

from bough.load.client_processes import ClientProcesses, Load
from bough.load.scenarios import Arrivals
from tests.load_tests.fake_server import FakeServer, stream_of


def load(label: str, arrivals: Arrivals, **limits: float) -> Load:
    duration_s, requests = limits.get("duration_s"), limits.get("requests")
    return Load(
        label=label,
        prompt_tokens=6,
        output_tokens=3,
        arrivals=arrivals,
        duration_s=duration_s,
        num_requests=None if requests is None else int(requests),
    )


async def test_processes_share_a_closed_loop_and_their_answers_are_summed_up() -> None:
    async with (
        FakeServer(stream_of(["a", "b"], completion_tokens=2)) as server,
        ClientProcesses(2, model="m", vocab_size=100) as clients,
    ):
        server.gate.clear()
        loads = [load("closed", Arrivals(concurrency=3), requests=10)]
        running = asyncio.create_task(clients.run(server.target, loads, seed=1))
        await asyncio.wait_for(server.until_arrived(3), 30)
        server.gate.set()
        measured = await running
        assert server.most_under_way == 3
        assert (measured["completed"], measured["output_tokens"], measured["errors"]) == (10, 20, {})
        assert measured["processes"] == 2
        prompts = {tuple(body["prompt"]) for body in server.bodies}
        assert len(prompts) == 10 and {len(prompt) for prompt in prompts} == {6}
        assert {(body["temperature"], body["ignore_eos"], body["max_tokens"]) for body in server.bodies} == {
            (1.0, True, 3)
        }


async def test_loads_of_two_labels_run_beside_each_other_and_are_summed_up_apart() -> None:
    async with (
        FakeServer(stream_of(["a", "b"], completion_tokens=2)) as server,
        ClientProcesses(1, model="m", vocab_size=100) as clients,
    ):
        loads = [
            load("chat", Arrivals(concurrency=2), requests=4),
            load("long", Arrivals(rate_per_s=50.0), duration_s=0.2),
        ]
        measured = await clients.run(server.target, loads, seed=2)
        parts = measured["by_label"]
        assert parts["chat"]["completed"] == 4 and parts["long"]["completed"] >= 1
        assert measured["completed"] == parts["chat"]["completed"] + parts["long"]["completed"]
