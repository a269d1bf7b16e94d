"""Killing services under load, and comparing what the clients got with a run that nobody disturbed."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.integration.client import Job, Outcome, open_client, stream
from tests.integration.server import Server
from tests.integration.workload import latecomers, streams

KILL_AFTER_EVENTS = 600
"""Pieces that all streams together have got when the service is killed: all are under way, none is near its end."""

HEADINGS = ("service killed", "streams", "altered", "lost", "longest stall ms", "undisturbed ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a kill did to the clients."""

    service: str
    num_streams: int
    altered: list[str]
    """Of each stream that ended with another content than undisturbed: its kind and where it differs."""
    lost: list[str]
    """Of each stream that did not come to its end: its kind and why."""
    longest_stall_s: float
    longest_stall_undisturbed_s: float

    @property
    def row(self) -> tuple[str, ...]:
        """The line of the table."""
        stalls = (self.longest_stall_s, self.longest_stall_undisturbed_s)
        counts = (self.num_streams, len(self.altered), len(self.lost), *(round(1000 * stall) for stall in stalls))
        return (self.service, *map(str, counts))


def table(reports: Sequence[Report]) -> str:
    """Reports as a table for a terminal."""
    rows = [HEADINGS, *(report.row for report in reports)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


async def run_load(url: str, jobs: Sequence[Job], late: Sequence[Job], disturb: Callable[[], None]) -> list[Outcome]:
    """Run `jobs` at once; when all are well under way call `disturb` and run the late ones beside them."""
    under_way = asyncio.Event()
    num_events = 0

    def count() -> None:
        nonlocal num_events
        num_events += 1
        if num_events == KILL_AFTER_EVENTS:
            under_way.set()

    async with open_client(url) as client:
        early = [asyncio.create_task(stream(client, job, count)) for job in jobs]
        await under_way.wait()
        assert not any(task.done() for task in early), "a stream is over before the service is killed"
        disturb()
        outcomes = await asyncio.gather(*(stream(client, job) for job in late))
        return [*await asyncio.gather(*early), *outcomes]


class Chaos:
    """Disturbed runs, each compared with one that nobody disturbed."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._jobs = streams()
        self._late = latecomers()
        self._undisturbed = self._run(lambda: None)

    def kill(self, service: str) -> Report:
        """Kill a service under load and compare."""
        got = self._run(lambda: self._server.kill(service))
        self._server.wait_ready()
        return compare(service, [*self._jobs, *self._late], self._undisturbed, got)

    def _run(self, disturb: Callable[[], None]) -> list[Outcome]:
        return asyncio.run(run_load(self._server.url, self._jobs, self._late, disturb))


def compare(service: str, jobs: Sequence[Job], expected: Sequence[Outcome], got: Sequence[Outcome]) -> Report:
    """What differs between two runs of the same jobs."""
    altered, lost = [], []
    for job, want, have in zip(jobs, expected, got, strict=True):
        assert want.whole, f"undisturbed {job.kind}: {want.error}"
        if not have.whole:
            lost.append(f"{job.kind}: {have.error}")
        elif difference := _difference(want, have):
            altered.append(f"{job.kind}: {difference}")
    return Report(
        service=service,
        num_streams=len(got),
        altered=altered,
        lost=lost,
        longest_stall_s=max(outcome.longest_gap_s for outcome in got),
        longest_stall_undisturbed_s=max(outcome.longest_gap_s for outcome in expected),
    )


def _difference(want: Outcome, have: Outcome) -> str:
    if want.content != have.content:
        place = next((i for i, (a, b) in enumerate(zip(want.text, have.text, strict=False)) if a != b), None)
        if place is None:
            return f"{want.content!r:.2000}\n   became {have.content!r:.2000}"
        around = slice(max(0, place - 20), place + 20)
        return f"at character {place}: {want.text[around]!r} became {have.text[around]!r}"
    if len(want.logprobs) != len(have.logprobs):
        return f"{len(want.logprobs)} log probabilities became {len(have.logprobs)}"
    off = [(a, b) for a, b in zip(want.logprobs, have.logprobs, strict=True) if not math.isclose(a, b, abs_tol=1e-4)]
    return f"log probabilities {off[0][0]} became {off[0][1]}" if off else ""
