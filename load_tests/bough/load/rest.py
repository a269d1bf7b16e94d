"""What six processes cost: `bough serve` measured from outside, beside its own executor and another engine's server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path
from typing import Any

from bough.load import machine, token_way
from bough.load.bough_server import RunningServer, bough_server, cpu_between
from bough.load.cases import decode_case, median
from bough.load.executor_driver import executor
from bough.load.generator import Generator, Plan
from bough.load.scenarios import Arrivals, Options, tokens

CONCURRENCY, REQUESTS = 64, 256
_IDLE_S = 20.0
_SETTLE_S = 2.0
_EDGE = ("gateway", "tokenizer", "detokenizer", "scheduler")

ServerFactory = Callable[[], AbstractAsyncContextManager[RunningServer]]


class RestMeasurement:
    """The measurements that need servers.

    Args:
        model_dir: The checkpoint.
        first_port: Servers listen on this port and those above it.
        repeats: Each number is the median of so many.
        log_dir: Where the output of the processes goes.
        say: Told what is being measured.
    """

    def __init__(
        self, model_dir: Path, *, first_port: int, repeats: int, log_dir: Path, say: Callable[[str], None]
    ) -> None:
        self._model_dir = model_dir
        self._first_port = first_port
        self._repeats = repeats
        self._log_dir = log_dir
        self._say = say
        self._rng = random.Random(1)

    async def run(self, peer: ServerFactory | None) -> dict[str, Any]:
        """All of them."""
        found: dict[str, Any] = {"ready_s": await self._ready()}
        self._say("one token's way")
        way = await token_way.measure(self._model_dir, self._first_port + 4, self._log_dir, token_way.Streams())
        found["token_way_ms"] = way.summary_ms()
        async with AsyncExitStack() as stack:
            ours = await stack.enter_async_context(self._serve(self._first_port))
            found["idle"] = await self._idle(ours)
            servers = {"bough": ours}
            if peer is not None:
                self._say("starting the other engine's server")
                servers["vllm"] = await stack.enter_async_context(peer())
                found["vllm_ready_s"] = round(servers["vllm"].ready_s, 1)
            found |= await self._rounds(servers)
            found["resident_mb"] = {name: round(used.resident_mb) for name, used in ours.usage().items()}
        return found

    def _serve(self, port: int) -> AbstractAsyncContextManager[RunningServer]:
        log = self._log_dir / f"serve-{port}.log"
        return bough_server(self._model_dir, port, log, "--served-model-name", "bench", "--log-level", "warning")

    async def _ready(self) -> float:
        seconds = []
        for number in range(self._repeats):
            self._say(f"start until ready, {number + 1} of {self._repeats}")
            async with self._serve(self._first_port + 2) as running:
                seconds.append(running.ready_s)
        return round(median(seconds), 2)

    async def _idle(self, ours: RunningServer) -> dict[str, Any]:
        self._say(f"idle CPU over {_IDLE_S:.0f} s")
        await _ask(ours, stream=True, requests=8, concurrency=4, seed=99)
        await asyncio.sleep(_SETTLE_S)
        before = ours.usage()
        await asyncio.sleep(_IDLE_S)
        used = cpu_between(before, ours.usage())
        percent = {name: round(100 * cpu_s / _IDLE_S, 2) for name, cpu_s in used.items()}
        return {"percent_of_a_core": percent, "all_six_percent": round(sum(percent.values()) - percent["launcher"], 2)}

    async def _rounds(self, servers: dict[str, RunningServer]) -> dict[str, Any]:
        runs: dict[str, list[dict[str, Any]]] = {}
        direct: list[float] = []
        async with executor(self._model_dir) as driver:
            for number in range(self._repeats + 1):
                self._say(f"through REST, {CONCURRENCY} at a time, round {number} of {self._repeats}")
                case = decode_case(self._rng, CONCURRENCY, requests=REQUESTS)
                outcome = await driver.run(case)
                direct.append(outcome.output_tokens / outcome.seconds)
                for name, running in servers.items():
                    for stream in (True, False):
                        key = f"{name} {'streamed' if stream else 'whole'}"
                        runs.setdefault(key, []).append(await _ask(running, stream=stream, seed=10 * number + stream))
        return {
            "executor_direct_tokens_per_s": round(median(direct[1:])),
            "rest": {key: _middle(measured[1:]) for key, measured in runs.items()},
        }


async def _ask(
    running: RunningServer, *, stream: bool, seed: int, requests: int = REQUESTS, concurrency: int = CONCURRENCY
) -> dict[str, Any]:
    """One run of the scenario `tokens`, with the CPU time a token that each process took for it."""
    source = tokens(Options(model="bench", stream=stream, seed=seed))
    generator = Generator(
        running.target, source, Plan(arrivals=Arrivals(concurrency=concurrency), num_requests=requests)
    )
    before, own_before_s = running.usage(), machine.own_cpu_s()
    summary = await generator.run()
    count = max(1, summary["output_tokens"])
    used = cpu_between(before, running.usage()) | {"client": machine.own_cpu_s() - own_before_s}
    return summary | {"cpu_us_per_token": {name: round(1e6 * cpu_s / count, 1) for name, cpu_s in used.items()}}


def _middle(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """The run of the median throughput, whole, so that its numbers belong together."""
    return sorted(measured, key=lambda run: float(run["output_tokens_per_s"]))[len(measured) // 2]
