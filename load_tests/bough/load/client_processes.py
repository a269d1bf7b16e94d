"""A load from several client processes at once, so that the client is not what limits a fast server."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import uvloop

from bough.load.generator import Generator, Plan, Tally
from bough.load.http_client import Target
from bough.load.scenarios import Arrivals, Options, tokens

_LEAD_S = 0.3
"""Between the order to start and the start, which all processes share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Completions of token ids of one length in and one out."""

    label: str
    prompt_tokens: int
    output_tokens: int
    arrivals: Arrivals
    num_requests: int | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Share:
    """What one process does."""

    target: Target
    load: Load
    options: Options
    start_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Portion:
    """What one process saw; its clock is the one that all processes of a machine share."""

    label: str
    tally: Tally
    ended_s: float


class ClientProcesses:
    """Processes that make requests; started once, used for several loads.

    Args:
        count: How many share a closed loop.
        model: Served model's name.
        vocab_size: Token ids are below this.
    """

    def __init__(self, count: int, *, model: str, vocab_size: int) -> None:
        self._count = count
        self._model = model
        self._vocab_size = vocab_size
        self._pool = ProcessPoolExecutor(count + 1, multiprocessing.get_context("spawn"))

    async def __aenter__(self) -> ClientProcesses:
        # Each waits a moment, so that no process takes the turn of another and all are started.
        await asyncio.gather(*(self._submit(time.sleep, 0.5) for _ in range(self._count + 1)))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._pool.shutdown()

    async def run(self, target: Target, loads: Sequence[Load], seed: int) -> dict[str, Any]:
        """Make all requests of all loads at the same time, and sum up; each label also by itself.

        Args:
            target: The server.
            loads: A closed loop is shared by the processes, an open one is made by one.
            seed: Same seed, same token ids.
        """
        start_s = time.perf_counter() + _LEAD_S
        shares: list[_Share] = []
        for load in loads:
            for part in _divided(load, self._count):
                options = Options(
                    model=self._model,
                    temperature=1.0,
                    prompt_tokens=load.prompt_tokens,
                    output_tokens=load.output_tokens,
                    vocab_size=self._vocab_size,
                    seed=1000 * seed + len(shares),
                )
                shares.append(_Share(target=target, load=part, options=options, start_s=start_s))
        portions = await asyncio.gather(*(self._submit(_run_share, share) for share in shares))
        return _summary(portions, start_s)

    def _submit(self, function: Any, *arguments: Any) -> Any:
        return asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)


def _divided(load: Load, count: int) -> list[Load]:
    clients = load.arrivals.concurrency
    if clients is None:
        return [load]
    count = min(count, clients)
    shares = [clients // count + (number < clients % count) for number in range(count)]
    requests = [None if load.num_requests is None else load.num_requests * share // clients for share in shares]
    if load.num_requests is not None:
        requests[0] = (requests[0] or 0) + load.num_requests - sum(filter(None, requests))
    return [
        Load(
            label=load.label,
            prompt_tokens=load.prompt_tokens,
            output_tokens=load.output_tokens,
            arrivals=Arrivals(concurrency=share),
            num_requests=wanted,
            duration_s=load.duration_s,
        )
        for share, wanted in zip(shares, requests, strict=True)
    ]


def _run_share(share: _Share) -> _Portion:
    load = share.load
    plan = Plan(
        arrivals=load.arrivals, num_requests=load.num_requests, duration_s=load.duration_s, seed=share.options.seed
    )
    generator = Generator(share.target, tokens(share.options), plan)

    async def run() -> None:
        await asyncio.sleep(share.start_s - time.perf_counter())
        await generator.run()

    uvloop.run(run())
    return _Portion(label=load.label, tally=generator.tally, ended_s=time.perf_counter())


def _summary(portions: Sequence[_Portion], start_s: float) -> dict[str, Any]:
    duration_s = max(portion.ended_s for portion in portions) - start_s
    whole, labels = Tally(), dict[str, Tally]()
    for portion in portions:
        whole.merge(portion.tally)
        labels.setdefault(portion.label, Tally()).merge(portion.tally)
    summary = {"duration_s": round(duration_s, 3), "processes": len(portions)} | whole.summary(duration_s)
    if len(labels) > 1:
        summary["by_label"] = {label: tally.summary(duration_s) for label, tally in labels.items()}
    return summary


def processes_for(cores: int | None = None) -> int:
    """How many client processes suit a machine: four, fewer where that would be more than half of the cores."""
    return max(1, min(4, (cores or os.cpu_count() or 2) // 2))
