"""An executor that computes nothing: every request gets a token a step, a function of its position, at a given pace."""

from __future__ import annotations

import asyncio
import multiprocessing as mp
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import grpc.aio
import uvloop

from bough.cli.models import with_model
from bough.common.codec import encode_identity
from bough.common.config import Settings
from bough.common.model import ModelIdentity, read_model_files
from bough.common.rpc.server import RpcServer
from bough.common.rpc.streams import StreamWriter, pump
from bough.rpc.v1 import executor_pb2, executor_pb2_grpc

_MAX_ROWS = 512
_FIRST_TOKEN, _NUM_TOKENS = 300, 400
"""Ids that are sampled, in turn: ordinary pieces of the demo model's vocabulary."""
_LENGTH = 3
"""FINISH_REASON_LENGTH."""


@contextmanager
def paced_executor(steps_per_s: float) -> Iterator[str]:
    """The address of such an executor, in a process of its own, for the demo model."""
    with tempfile.TemporaryDirectory(prefix="paced-") as folder:
        address = f"unix:{folder}/executor.sock"
        process = mp.get_context("spawn").Process(target=_executor, args=(address, steps_per_s), daemon=True)
        process.start()
        try:
            yield address
        finally:
            process.terminate()
            process.join()


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
            executor_epoch=1, identity=encode_identity(self._identity), capacity=capacity, takes_bases=True
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
        finish = [_LENGTH if row[1] == 1 else 0 for row in self._rows.values()]
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
