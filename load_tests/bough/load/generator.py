"""Makes requests as a scenario and its arrivals say, and sums up what came back."""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from bough.load.distribution import Distribution
from bough.load.http_client import Answer, Target, exchange
from bough.load.scenarios import Arrivals, Request


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long a load goes on: until so many requests were made, or for so long, whichever comes first."""

    arrivals: Arrivals
    num_requests: int | None = None
    duration_s: float | None = None
    timeout_s: float = 600.0
    seed: int = 0


@dataclass(slots=True)
class Tally:
    """Answers summed up."""

    completed: int = 0
    went_away: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    chunks: int = 0
    ttft: Distribution = field(default_factory=Distribution)
    itl: Distribution = field(default_factory=Distribution)
    tpot: Distribution = field(default_factory=Distribution)
    e2e: Distribution = field(default_factory=Distribution)

    def add(self, request: Request, answer: Answer) -> None:
        """Take an answer in."""
        if answer.error is not None:
            self.errors[answer.error] += 1
            return
        times = answer.text_times_s
        self.chunks += len(times)
        if times:
            self.ttft.add(times[0] - answer.sent_s)
            for before, after in itertools.pairwise(times):
                self.itl.add(after - before)
        if request.stop_after is not None and len(times) >= request.stop_after:
            self.went_away += 1
            return
        self.completed += 1
        self.e2e.add(answer.end_s - answer.sent_s)
        num_output = int(answer.usage.get("completion_tokens") or len(times))
        self.output_tokens += num_output
        self.prompt_tokens += int(answer.usage.get("prompt_tokens") or 0)
        self.cached_tokens += int((answer.usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)
        if len(times) > 1 and num_output > 1:
            self.tpot.add((times[-1] - times[0]) / (num_output - 1))

    def merge(self, other: Tally) -> None:
        """Take in all answers of another one."""
        for name in ("completed", "went_away", "prompt_tokens", "cached_tokens", "output_tokens", "chunks"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.errors.update(other.errors)
        for name in ("ttft", "itl", "tpot", "e2e"):
            getattr(self, name).merge(getattr(other, name))

    def summary(self, duration_s: float) -> dict[str, Any]:
        """Everything as plain numbers; durations in milliseconds."""
        return {
            "completed": self.completed,
            "went_away": self.went_away,
            "errors": dict(self.errors.most_common()),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "output_tokens": self.output_tokens,
            "chunks": self.chunks,
            "requests_per_s": round(self.completed / duration_s, 3),
            "output_tokens_per_s": round(self.output_tokens / duration_s, 1),
            "ttft_ms": self.ttft.summary_ms(),
            "itl_ms": self.itl.summary_ms(),
            "tpot_ms": self.tpot.summary_ms(),
            "e2e_ms": self.e2e.summary_ms(),
        }


class Generator:
    """One run of a load.

    Args:
        target: The server.
        requests: What to ask, endless.
        plan: How much of it, and when.
    """

    def __init__(self, target: Target, requests: Iterator[Request], plan: Plan) -> None:
        self._target = target
        self._requests = requests
        self._plan = plan
        self._made = 0
        self._began_s = 0.0
        self.labels: dict[str, Tally] = {}
        self._largest_lag_s = 0.0
        self.tally = Tally()
        self.under_way = 0

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first request."""
        return time.perf_counter() - self._began_s if self._began_s else 0.0

    @property
    def progress(self) -> float:
        """Share of the plan that is done, 0 to 1."""
        plan = self._plan
        parts = [0.0]
        if plan.num_requests:
            parts.append((self._made - self.under_way) / plan.num_requests)
        if plan.duration_s:
            parts.append(self.elapsed_s / plan.duration_s)
        return min(1.0, max(parts))

    async def run(self) -> dict[str, Any]:
        """Make all requests, wait for all answers, and sum up."""
        self._began_s = time.perf_counter()
        if self._plan.arrivals.concurrency is not None:
            workers = [self._client() for _ in range(self._plan.arrivals.concurrency)]
            await asyncio.gather(*workers)
        else:
            await self._open_loop()
        duration_s = self.elapsed_s
        summary = {"duration_s": round(duration_s, 3), "arrivals": asdict(self._plan.arrivals)}
        summary |= self.tally.summary(duration_s)
        if self._plan.arrivals.concurrency is None:
            summary["largest_lag_ms"] = round(1000 * self._largest_lag_s, 3)
        if len(self.labels) > 1:
            summary["by_label"] = {label: tally.summary(duration_s) for label, tally in sorted(self.labels.items())}
        return summary

    def _next(self) -> Request | None:
        plan = self._plan
        if plan.num_requests is not None and self._made >= plan.num_requests:
            return None
        if plan.duration_s is not None and self.elapsed_s >= plan.duration_s:
            return None
        self._made += 1
        return next(self._requests)

    async def _client(self) -> None:
        while (request := self._next()) is not None:
            await self._ask(request)

    async def _open_loop(self) -> None:
        arrivals = self._plan.arrivals
        assert arrivals.rate_per_s is not None
        # Requests have a stream of chance of their own, so that a rate can be changed and the requests stay the same.
        gaps = random.Random(self._plan.seed + 1)
        due_s = 0.0
        async with asyncio.TaskGroup() as group:
            while True:
                for _ in range(arrivals.burst):
                    if (request := self._next()) is None:
                        return
                    group.create_task(self._ask(request))
                due_s += gaps.expovariate(arrivals.rate_per_s / arrivals.burst)
                await asyncio.sleep(due_s - self.elapsed_s)
                self._largest_lag_s = max(self._largest_lag_s, self.elapsed_s - due_s)

    async def _ask(self, request: Request) -> None:
        payload = self._target.post(request.path, request.body)
        self.under_way += 1
        try:
            answer = await exchange(
                self._target, payload, timeout_s=self._plan.timeout_s, stop_after=request.stop_after
            )
        finally:
            self.under_way -= 1
        self.tally.add(request, answer)
        self.labels.setdefault(request.label, Tally()).add(request, answer)
