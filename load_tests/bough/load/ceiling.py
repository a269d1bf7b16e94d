"""What the generator itself can take: chunks a second from a server that only sends prepared bytes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bough.load import machine
from bough.load.children import ended
from bough.load.generator import Generator, Plan
from bough.load.http_client import Target
from bough.load.scenarios import Arrivals, Options, tokens

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_CHUNK = (
    b'data: {"id":"cmpl-0123456789abcdef","object":"text_completion","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"text":" word","finish_reason":null}]}\n\n'
)
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":128,"completion_tokens":%d}}\n\ndata: [DONE]\n\n'


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, num_chunks: int) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split()[0])
    await reader.readexactly(length)
    writer.write(_HEAD)
    chunk = _framed(_CHUNK)
    for _ in range(num_chunks):
        # One write a chunk and a turn of the loop between them, as a server does that streams token by token.
        writer.write(chunk)
        await writer.drain()
        await asyncio.sleep(0)
    writer.write(_framed(_USAGE % num_chunks) + b"0\r\n\r\n")
    writer.close()


async def serve_prepared(num_chunks: int) -> None:
    """Serve prepared streams on a free port, which is printed, until the process is ended."""
    server = await asyncio.start_server(lambda r, w: _answer(r, w, num_chunks), "127.0.0.1", 0)
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


@asynccontextmanager
async def prepared_server(num_chunks: int) -> AsyncIterator[Target]:
    """Such a server in a process of its own."""
    program = f"import uvloop, bough.load.ceiling as c; uvloop.run(c.serve_prepared({num_chunks}))"
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    try:
        yield Target("127.0.0.1", int(await process.stdout.readline()), "", False)
    finally:
        await ended(process)


async def measure(*, concurrency: int = 64, num_chunks: int = 512, num_requests: int = 256) -> dict[str, Any]:
    """Chunks a second that arrived, and the generator's own CPU time a chunk."""
    async with prepared_server(num_chunks) as target:
        plan = Plan(arrivals=Arrivals(concurrency=concurrency), num_requests=num_requests)
        generator = Generator(target, tokens(Options(model="bench")), plan)
        before_s = machine.own_cpu_s()
        summary = await generator.run()
        cpu_s = machine.own_cpu_s() - before_s
    chunks = summary["chunks"]
    return {
        "chunks_per_s": round(chunks / summary["duration_s"]),
        "cpu_us_per_chunk": round(1e6 * cpu_s / chunks, 2),
        "share_of_a_core": round(cpu_s / summary["duration_s"], 3),
        "errors": summary["errors"],
    }
