"""Drives one executor through its gRPC contract, as a scheduler would, and measures what comes out."""

from __future__ import annotations

import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio

from bough.common.config import Settings
from bough.common.ids import new_epoch
from bough.common.rpc.channel import open_channel
from bough.load.children import ended
from bough.rpc.v1 import executor_pb2 as pb
from bough.rpc.v1 import executor_pb2_grpc

_START_TIMEOUT_S = 300.0
_MESSAGE_TOKENS = 8192
_Call = grpc.aio.StreamStreamCall[pb.RunRequest, pb.RunResponse]


class ExecutorFailed(Exception):
    """The executor did not start, or refused a request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Prompts to run, so many at once, without an end of their own."""

    prompts: Sequence[Sequence[int]]
    output_tokens: int | Sequence[int]
    """Of each request: one number for all, or one a prompt."""
    concurrency: int | None = None
    """Requests under way at once; all when None."""
    temperature: float = 0.0

    @property
    def outputs(self) -> list[int]:
        """Tokens that each request produces."""
        if isinstance(self.output_tokens, int):
            return [self.output_tokens] * len(self.prompts)
        return list(self.output_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How long it took."""

    seconds: float
    prompt_tokens: int
    output_tokens: int
    median_step_us: int

    def rate(self, *, of_prompts: bool) -> float:
        """Tokens a second: of the prompts, or those produced."""
        return (self.prompt_tokens if of_prompts else self.output_tokens) / self.seconds


@asynccontextmanager
async def executor(model_dir: Path, flags: Sequence[str] = ()) -> AsyncIterator[ExecutorDriver]:
    """An executor as a process of its own, ready.

    Args:
        model_dir: The model directory.
        flags: Settings of the executor as flags, such as `--load-format`, `dummy`.
    """
    with tempfile.TemporaryDirectory(prefix="bough-bench-") as run_dir:
        settings = Settings(model=model_dir, run_dir=Path(run_dir), log_level="warning")
        command = [sys.executable, "-P", "-m", "bough.cli.main", "service", "executor", "--log-level", "warning"]
        command += ["--model", str(model_dir), "--run-dir", run_dir, *flags]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(*command)
        channel = open_channel(settings.address_of("executor"))
        try:
            driver = ExecutorDriver(channel, process.pid)
            await driver.until_ready(process)
            driver.ready_s = time.perf_counter() - began
            yield driver
        finally:
            await channel.close()
            await ended(process)


@asynccontextmanager
async def running_executor(address: str) -> AsyncIterator[ExecutorDriver]:
    """An executor that somebody else started, at an address such as `unix:/run/bough/executor.sock`."""
    channel = open_channel(address)
    try:
        driver = ExecutorDriver(channel, 0)
        await driver.until_ready(None)
        yield driver
    finally:
        await channel.close()


class ExecutorDriver:
    """The scheduler's side of an executor.

    Args:
        channel: To the executor.
        pid: Its process.
    """

    def __init__(self, channel: grpc.aio.Channel, pid: int) -> None:
        self._stub = executor_pb2_grpc.ExecutorServiceStub(channel)
        self._epoch = new_epoch()
        self._ids = itertools.count(1)
        self._numbers = itertools.count(1)
        self._call: _Call | None = None
        self.pid = pid
        self.ready_s: float | None = None
        """Seconds from the start of the process until the model was loaded; None for one that was running."""

    async def until_ready(self, process: asyncio.subprocess.Process | None) -> None:
        """Wait until the model is loaded. ExecutorFailed when the process ends or takes too long."""
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s and (process is None or process.returncode is None):
            try:
                if (await self._stub.Describe(pb.ExecutorDescribeRequest())).HasField("capacity"):
                    return
            except grpc.aio.AioRpcError:
                pass
            await asyncio.sleep(0.05)
        state = "" if process is None else f" (exit status {process.returncode})"
        raise ExecutorFailed(f"the executor is not ready{state}")

    async def run(self, case: Case) -> Outcome:
        """Run a case.

        Raises:
            ExecutorFailed: the executor does not take the stream, or a request fails; the next case has a new stream.
        """
        try:
            return await self._run(await self._attached(), case)
        except BaseException:
            if self._call is not None:
                self._call.cancel()
                self._call = None
            raise

    async def _attached(self) -> _Call:
        """The stream of all cases. A new one would begin with all that the cache holds, at the cost of its case."""
        if self._call is None:
            call = self._call = self._stub.Run()
            self._numbers = itertools.count(1)
            attach = pb.ExecutorAttach(scheduler_epoch=self._epoch)
            await call.write(pb.RunRequest(attach=attach, seq=next(self._numbers)))
            first = await call.read()
            if not isinstance(first, pb.RunResponse) or not first.HasField("attached"):
                raise ExecutorFailed("the executor did not accept the stream")
        return self._call

    async def _run(self, call: _Call, case: Case) -> Outcome:
        outputs = case.outputs
        waiting = [self._admit(*one, case.temperature) for one in zip(case.prompts, outputs, strict=True)]
        waiting.reverse()
        free = min(case.concurrency or len(waiting), len(waiting))
        remaining, produced, number = len(waiting), 0, self._numbers
        steps_us: list[int] = []
        began = time.perf_counter()
        for admits in _pieces([waiting.pop() for _ in range(free)]):
            await call.write(pb.RunRequest(seq=next(number), admits=admits))
        while remaining:
            message = await call.read()
            if not isinstance(message, pb.RunResponse) or message.errors:
                raise ExecutorFailed(f"the executor failed: {message}")
            produced += len(message.tokens.tokens)
            steps_us.append(message.gauges.step_us)
            num_ended = sum(1 for reason in message.tokens.finish if reason)
            remaining -= num_ended
            if num_ended:
                admits = [waiting.pop() for _ in range(min(num_ended, len(waiting)))]
                await call.write(pb.RunRequest(seq=next(number), ack=message.seq, admits=admits))
        seconds = time.perf_counter() - began
        if produced != sum(outputs):
            raise ExecutorFailed(f"the executor produced {produced} tokens where {sum(outputs)} were asked for")
        return Outcome(
            seconds=seconds,
            prompt_tokens=sum(map(len, case.prompts)),
            output_tokens=produced,
            median_step_us=sorted(steps_us)[len(steps_us) // 2],
        )

    def _admit(self, prompt: Sequence[int], output_tokens: int, temperature: float) -> pb.Admit:
        number = next(self._ids)
        admit = pb.Admit(requests=[number], prompt=prompt, order=number)
        admit.sampling.max_tokens = output_tokens
        admit.sampling.temperature = temperature
        admit.sampling.ignore_eos = True
        admit.sampling.top_p = 1.0
        admit.sampling.repetition_penalty = 1.0
        return admit


def _pieces(admits: list[pb.Admit]) -> Iterator[list[pb.Admit]]:
    """Requests for messages of about as many tokens as a step has, as a scheduler hands them out.

    The executor computes the first of them while it reads the others.
    """
    piece: list[pb.Admit] = []
    num_tokens = 0
    for admit in admits:
        piece.append(admit)
        num_tokens += len(admit.prompt)
        if num_tokens >= _MESSAGE_TOKENS:
            yield piece
            piece, num_tokens = [], 0
    if piece:
        yield piece
