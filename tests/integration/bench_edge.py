"""What a streamed token costs each service of the edge: CPU time by process, with an executor that computes nothing.

    python -m tests.integration.bench_edge [STREAMS] [TOKENS] [STEPS_PER_SECOND] [ARGUMENTS OF bough serve …]

A fake executor gives every running request one token a step, at most so many steps a second; all other services are
real. Prints tokens a second and microseconds of CPU a token for each service, copies added up, median of three rounds.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import psutil  # type: ignore[import-untyped]
import uvloop

from bough.cli.models import with_model
from bough.common.codec import encode_identity
from bough.common.config import SERVICES, Settings
from bough.common.model import ModelIdentity, read_model_files
from bough.common.rpc.server import RpcServer
from bough.common.rpc.streams import StreamWriter, pump
from bough.rpc.v1 import executor_pb2, executor_pb2_grpc
from tests.integration.server import Server

ROUNDS = 3
_MAX_ROWS = 512
_FIRST_TOKEN, _NUM_TOKENS = 300, 400
"""Ids that are sampled, in turn: ordinary pieces of the demo model's vocabulary."""


class PacedExecutor(executor_pb2_grpc.ExecutorServiceServicer):
    """Gives every request a token a step.

    Args:
        identity: The model it claims to hold.
        steps_per_s: At most so many steps.
    """

    def __init__(self, identity: ModelIdentity, steps_per_s: float) -> None:
        self._identity = identity
        self._interval_s = 1 / steps_per_s
        self._rows: dict[int, list[int]] = {}
        """Request -> [position, tokens left]."""
        self._work = asyncio.Event()
        self._report: executor_pb2.RunResponse | None = None
        self._num_steps = 0

    async def Describe(
        self, request: executor_pb2.ExecutorDescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> executor_pb2.ExecutorDescribeResponse:
        """Which model it claims to hold."""
        return executor_pb2.ExecutorDescribeResponse(identity=encode_identity(self._identity), epoch=1)

    # A coroutine that writes, as in the service.
    async def Run(  # type: ignore[override]
        self,
        request_iterator: AsyncIterator[executor_pb2.RunRequest],
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> None:
        """Serve a scheduler."""
        writer: StreamWriter[executor_pb2.RunResponse] = StreamWriter(self._collect, context.write)
        first = await anext(aiter(request_iterator))
        writer.accept(first.seq)
        capacity = executor_pb2.Capacity(num_pages=1 << 20, page_size=16, max_rows=_MAX_ROWS, token_budget=8192)
        attached = executor_pb2.ExecutorAttached(
            executor_epoch=1, identity=encode_identity(self._identity), capacity=capacity
        )
        await writer.send(executor_pb2.RunResponse(attached=attached))
        stepping = asyncio.create_task(self._step(writer))
        try:
            await pump(request_iterator, writer, self._on_message)
        finally:
            stepping.cancel()

    def _on_message(self, message: executor_pb2.RunRequest) -> None:
        for admit in message.admits:
            for request in admit.requests:
                self._rows[request] = [0, admit.sampling.max_tokens]
        for request in message.cancels:
            self._rows.pop(request, None)
        self._work.set()

    async def _step(self, writer: StreamWriter[executor_pb2.RunResponse]) -> None:
        loop = asyncio.get_running_loop()
        next_s = loop.time()
        while True:
            if not self._rows:
                self._work.clear()
                await self._work.wait()
            next_s = max(next_s + self._interval_s, loop.time())
            await asyncio.sleep(next_s - loop.time())
            if self._rows and self._report is None:
                self._report = self._advance()
                writer.wake()

    def _advance(self) -> executor_pb2.RunResponse:
        self._num_steps += 1
        response = executor_pb2.RunResponse(step=self._num_steps)
        positions = [row[0] for row in self._rows.values()]
        finish = [3 if row[1] == 1 else 0 for row in self._rows.values()]
        response.tokens.requests.extend(self._rows)
        response.tokens.positions.extend(positions)
        response.tokens.tokens.extend(_FIRST_TOKEN + (7 * position) % _NUM_TOKENS for position in positions)
        if any(finish):
            response.tokens.finish.extend(finish)
        for request, position in zip(list(self._rows), positions, strict=True):
            if not position:
                response.started.requests.append(request)
                response.started.cached_tokens.append(0)
            row = self._rows[request]
            row[0], row[1] = row[0] + 1, row[1] - 1
            if not row[1]:
                del self._rows[request]
        return response

    def _collect(self) -> executor_pb2.RunResponse | None:
        report, self._report = self._report, None
        return report


async def _serve(address: str, steps_per_s: float) -> None:
    model = with_model(Settings()).model
    assert model is not None
    server = RpcServer(address)
    servicer = PacedExecutor(read_model_files(model).identity, steps_per_s)
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server.server)
    await server.start()
    await server.set_ready(True)
    await asyncio.Event().wait()


def _executor(address: str, steps_per_s: float) -> None:
    uvloop.run(_serve(address, steps_per_s))


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
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        address = f"unix:{folder}/executor.sock"
        executor = mp.get_context("spawn").Process(target=_executor, args=(address, steps_per_s))
        executor.start()
        try:
            with Server("--executor-address", address, *sys.argv[4:]) as server:
                rounds = [uvloop.run(_round(server, int(num_streams), int(num_tokens))) for _ in range(ROUNDS + 1)]
        finally:
            executor.terminate()
            executor.join()
    for name in rounds[0]:
        values = [found[name] for found in rounds[1:]]
        unit = " us a token" if name.split()[0] in (*SERVICES, "client") else ""
        shown = ", ".join(f"{value:.2f}" for value in values)
        sys.stdout.write(f"{name:<22} {statistics.median(values):9.2f}{unit}  ({shown})\n")


if __name__ == "__main__":
    main()
