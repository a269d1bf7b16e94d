"""What a streamed token costs the gateway: CPU time of its process, while a fake detokenizer feeds many streams.

    python -m tests.gateway.bench_streaming [STREAMS] [TOKENS] [STEPS_PER_SECOND]

Three processes: the fake services, the gateway, and this one, which reads the streams. Prints microseconds of the
gateway's CPU a token, its memory, its idle CPU and the delay from the fake's message to the client.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing as mp
import os
import sys
import time
from multiprocessing.synchronize import Event as ProcessEvent
from pathlib import Path
from typing import Any

import uvloop

from bough.common.config import Settings
from bough.common.service import run_service
from bough.gateway.service import create
from tests.gateway.fakes import FakeChain

PORT = 18431


async def _serve_fakes(paths: Any, stop: ProcessEvent, num_tokens: int, steps_per_s: float) -> None:
    chain = FakeChain()
    backend = chain.backend
    backend.automatic = False
    backend.reply = lambda prompt, sibling: "word " * (num_tokens // 5)
    await chain.start()
    paths.put((str(chain.model), {n: chain.address(n) for n in ("tokenizer", "grammar", "detokenizer0")}))
    loop = asyncio.get_running_loop()
    next_s = loop.time()
    while not stop.is_set():
        next_s = max(next_s + 1 / steps_per_s, loop.time())
        await asyncio.sleep(next_s - loop.time())
        if any(not run.ended for run in backend.runs.values()):
            backend.advance()
    await chain.stop()


def _fakes(paths: Any, stop: ProcessEvent, num_tokens: int, steps_per_s: float) -> None:
    uvloop.run(_serve_fakes(paths, stop, num_tokens, steps_per_s))


def _gateway(model: str, addresses: dict[str, str]) -> None:
    settings = Settings(
        model=Path(model),
        port=PORT,
        tokenizer_address=addresses["tokenizer"],
        grammar_address=addresses["grammar"],
        detokenizer_address=addresses["detokenizer0"],
        log_level="warning",
    )
    run_service("gateway", create(settings), drain_timeout_s=1)


async def _read_stream(num_tokens: int) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    body = json.dumps({"messages": [{"role": "user", "content": "x"}], "max_tokens": num_tokens, "stream": True})
    writer.write(f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    chunks, tail = 0, b""
    while b"[DONE]" not in tail:
        data = await reader.read(65536)
        if not data:
            raise ConnectionError(tail)
        chunks += data.count(b"data: ")
        tail = (tail + data)[-200:]
    writer.close()
    return chunks


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


async def _wait_ready() -> None:
    for _ in range(200):
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.write(b"GET /ready HTTP/1.1\r\nhost: x\r\n\r\n")
        status = await reader.readline()
        writer.close()
        if b"200" in status:
            return
        await asyncio.sleep(0.05)
    raise TimeoutError("the gateway does not get ready")


async def _measure(pid: int, num_streams: int, num_tokens: int) -> None:
    await _wait_ready()
    before, wall = _cpu_s(pid), time.perf_counter()
    await asyncio.sleep(3)
    idle = (_cpu_s(pid) - before) / (time.perf_counter() - wall)
    for _ in range(2):
        before, wall = _cpu_s(pid), time.perf_counter()
        chunks = sum(await asyncio.gather(*(_read_stream(num_tokens) for _ in range(num_streams))))
        cpu, wall = _cpu_s(pid) - before, time.perf_counter() - wall
        tokens = num_streams * num_tokens
        sys.stdout.write(
            f"{num_streams} streams, {tokens} tokens, {chunks} events: {tokens / wall:.0f} tokens/s, "
            f"gateway {cpu / tokens * 1e6:.1f} us CPU a token ({cpu / wall:.0%} of a core), "
            f"{_resident_mb(pid):.0f} MB resident, idle {idle:.2%} of a core\n"
        )


def main() -> None:
    num_streams, num_tokens, steps_per_s = (float(a) for a in [*sys.argv[1:], "64", "200", "100"][:3])
    context = mp.get_context("spawn")
    paths, stop = context.Queue(), context.Event()
    fakes = context.Process(target=_fakes, args=(paths, stop, int(num_tokens), steps_per_s))
    fakes.start()
    model, addresses = paths.get(timeout=30)
    gateway = context.Process(target=_gateway, args=(model, addresses))
    gateway.start()
    try:
        uvloop.run(_measure(gateway.pid or 0, int(num_streams), int(num_tokens)))
    finally:
        gateway.terminate()
        gateway.join()
        stop.set()
        fakes.join()


if __name__ == "__main__":
    main()
