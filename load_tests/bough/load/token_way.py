"""How long a token is under way from the end of the executor's step to the client's read, through all six processes.

A `bough serve` runs with an executor that notes when its steps end, on the monotonic clock that all processes of a
machine share. The client asks for one stream at a time with `return_token_ids`, so that each event says up to which
token it goes; the arrival of an event is compared with the end of the step of its last token.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bough.load.bough_server import bough_server
from bough.load.children import own_path, server
from bough.load.distribution import Distribution
from bough.load.http_client import Target

_PAUSE_S = 0.05
_SOCKET_TIMEOUT_S = 60.0


class UnclearMeasurement(Exception):
    """Steps and events do not belong together one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """Streams that are run one after the other; one more before them warms everything up."""

    count: int = 8
    output_tokens: int = 128


async def measure(model_dir: Path, port: int, log_dir: Path, streams: Streams) -> Distribution:
    """Start everything, run the streams, and match their events with the steps.

    Args:
        model_dir: The model.
        port: REST port of the `bough serve` that is started.
        log_dir: Where logs go.
        streams: What to run.

    Raises:
        UnclearMeasurement: The executor produced another number of tokens than came.
    """
    with tempfile.TemporaryDirectory(prefix="bough-bench-") as folder:
        run_dir, steps = Path(folder), log_dir / "steps.txt"
        module = [sys.executable, "-P", "-m", "bough.load.traced_executor"]
        async with server([*module, str(model_dir), folder, str(steps)], log_dir / "traced-executor.log", own_path()):
            address = f"unix:{run_dir / 'executor.sock'}"
            # The launcher's folder is another one: it removes the sockets that it finds in its own.
            flags = ("--executor-address", address, "--log-level", "warning", "--served-model-name", "bench")
            async with bough_server(model_dir, port, log_dir / "token-way.log", *flags) as running:
                arrivals = await _run_streams(running.target, streams)
        return _delays(arrivals, _step_ends_s(steps), streams)


async def _run_streams(target: Target, streams: Streams) -> list[tuple[int, float]]:
    arrivals: list[tuple[int, float]] = []
    for number in range(streams.count + 1):
        base = number * streams.output_tokens
        prompt = [300 + (number * 37 + index * 11) % 3000 for index in range(32)]
        body = {"model": "bench", "prompt": prompt, "max_tokens": streams.output_tokens, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True, "return_token_ids": True}
        stream = await _read_stream(target, target.post("/v1/completions", body))
        arrivals += [(base + position, now_s) for position, now_s in stream]
        await asyncio.sleep(_PAUSE_S)
    return arrivals


async def _read_stream(target: Target, payload: bytes) -> list[tuple[int, float]]:
    """(index of the last token, arrival in seconds) of each event that brought tokens."""
    reader, writer = await asyncio.open_connection(target.host, target.port)
    writer.write(payload)
    found: list[tuple[int, float]] = []
    num_tokens = 0
    while True:
        line = await reader.readline()
        now_s = time.perf_counter()
        if not line or line.startswith(b"data: [DONE]"):
            break
        if not line.startswith(b"data: {"):
            continue
        for choice in json.loads(line[6:]).get("choices", ()):
            if tokens := choice.get("token_ids"):
                num_tokens += len(tokens)
                found.append((num_tokens - 1, now_s))
    writer.close()
    return found


def _step_ends_s(file: Path) -> list[float]:
    """End of the step of each token, in the order in which tokens were produced."""
    lines = (line.split() for line in file.read_text().splitlines())
    return [int(ended_ns) / 1e9 for ended_ns, count in lines for _ in range(int(count))]


def _delays(arrivals: list[tuple[int, float]], steps_s: list[float], streams: Streams) -> Distribution:
    expected = (streams.count + 1) * streams.output_tokens
    if len(steps_s) != expected:
        raise UnclearMeasurement(f"the executor produced {len(steps_s)} tokens where {expected} were asked for")
    delays = Distribution()
    for index, now_s in arrivals:
        if index >= streams.output_tokens:
            delays.add(now_s - steps_s[index])
    return delays
