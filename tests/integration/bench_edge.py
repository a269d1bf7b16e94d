"""What a streamed token costs each service of the edge: CPU time by process, with an executor that computes nothing.

    python -m tests.integration.bench_edge [STREAMS] [TOKENS] [STEPS_PER_SECOND] [ARGUMENTS OF bough serve …]

A fake executor gives every running request one token a step, at most so many steps a second; all other services are
real. Prints tokens a second and microseconds of CPU a token for each service, copies added up, median of three rounds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import sys
import time
from collections import defaultdict

import psutil  # type: ignore[import-untyped]
import uvloop

from bough.common.config import SERVICES
from tests.integration.paced_executor import paced_executor
from tests.integration.server import Server

ROUNDS = 3


async def _read_stream(host: str, port: int, num_tokens: int) -> tuple[int, list[float]]:
    """Events of one stream, and the times of its reads."""
    reader, writer = await asyncio.open_connection(host, port)
    fields = {"prompt": [300] * 8, "max_tokens": num_tokens, "stream": True, "ignore_eos": True, "temperature": 0}
    body = json.dumps(fields)
    writer.write(f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    events, tail, times = 0, b"", []
    while b"[DONE]" not in tail:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError(tail)
        times.append(time.perf_counter())
        events += data.count(b"data: ")
        tail = (tail + data)[-200:]
    writer.close()
    return events, times


def cpu_by_service(launcher: int) -> dict[str, float]:
    """Seconds of CPU of each service since its start, copies added up; `client` is this process."""
    seconds: defaultdict[str, float] = defaultdict(float)
    for child in psutil.Process(launcher).children():
        arguments = child.cmdline()
        for name in SERVICES:
            if name in arguments:
                times = child.cpu_times()
                seconds[name] += times.user + times.system
                seconds[f"{name} in kernel"] += times.system
    times = psutil.Process(os.getpid()).cpu_times()
    seconds["client"] = times.user + times.system
    return dict(seconds)


async def _round(server: Server, num_streams: int, num_tokens: int) -> dict[str, float]:
    host, port = server.url.removeprefix("http://").split(":")
    before, began_s = cpu_by_service(server.pid), time.perf_counter()
    results = await asyncio.gather(*(_read_stream(host, int(port), num_tokens) for _ in range(num_streams)))
    wall_s, after = time.perf_counter() - began_s, cpu_by_service(server.pid)
    gaps = sorted(b - a for _, times in results for a, b in itertools.pairwise(times))
    count = num_streams * num_tokens
    found = {name: (after[name] - before[name]) / count * 1e6 for name in after}
    found["tokens/s"] = count / wall_s
    found["events a token"] = sum(events for events, _ in results) / count
    found["ITL p50 ms"], found["ITL p99 ms"] = 1e3 * gaps[len(gaps) // 2], 1e3 * gaps[int(len(gaps) * 0.99)]
    return found


def main() -> None:
    num_streams, num_tokens, steps_per_s = (float(a) for a in [*sys.argv[1:4], "64", "256", "100"][:3])
    with paced_executor(steps_per_s) as address, Server("--executor-address", address, *sys.argv[4:]) as server:
        rounds = [uvloop.run(_round(server, int(num_streams), int(num_tokens))) for _ in range(ROUNDS + 1)]
    for name in rounds[0]:
        values = [found[name] for found in rounds[1:]]
        unit = " us a token" if name.split()[0] in (*SERVICES, "client") else ""
        shown = ", ".join(f"{value:.2f}" for value in values)
        sys.stdout.write(f"{name:<22} {statistics.median(values):9.2f}{unit}  ({shown})\n")


if __name__ == "__main__":
    main()
