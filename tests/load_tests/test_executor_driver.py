from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from bough.common.rpc.channel import open_channel
from bough.load.executor_driver import Case, ExecutorDriver, ExecutorFailed
from bough.rpc.v1 import executor_pb2 as pb
from bough.rpc.v1 import executor_pb2_grpc


class FakeExecutor(executor_pb2_grpc.ExecutorServiceServicer):
    """Gives every running request a token a step, and ends it with the last one it asked for."""

    def __init__(self) -> None:
        self.num_streams = 0
        self.most_running = 0
        self.num_steps = 0
        self.prompts: list[list[int]] = []
        self.temperatures: set[float] = set()
        self.ends_early = False
        self.fails = False

    async def Describe(
        self, request: pb.ExecutorDescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.ExecutorDescribeResponse:
        return pb.ExecutorDescribeResponse()

    async def Run(  # type: ignore[override]
        self, request_iterator: AsyncIterator[pb.RunRequest], context: grpc.aio.ServicerContext[Any, Any]
    ) -> None:
        messages = aiter(request_iterator)
        first = await anext(messages)
        assert first.HasField("attach") and first.seq == 1
        self.num_streams += 1
        await context.write(pb.RunResponse(attached=pb.ExecutorAttached(executor_epoch=1), seq=1))
        left: dict[int, int] = {}
        number = 1
        while True:
            if not left or any(count == 0 for count in left.values()):
                left = {request: count for request, count in left.items() if count}
                order = await anext(messages, None)
                if order is None:
                    return
                for admit in order.admits:
                    left[admit.requests[0]] = admit.sampling.max_tokens - self.ends_early
                    self.temperatures.add(admit.sampling.temperature)
                    self.prompts.append(list(admit.prompt))
                self.most_running = max(self.most_running, len(left))
                if not left:
                    continue
            left = {request: count - 1 for request, count in left.items()}
            number += 1
            self.num_steps += 1
            message = pb.RunResponse(seq=number, gauges=pb.ExecutorGauges(step_us=7))
            message.tokens.requests.extend(left)
            message.tokens.tokens.extend([1] * len(left))
            message.tokens.finish.extend([2 if count == 0 else 0 for count in left.values()])
            if self.fails:
                message.errors.add(request=1, code=13, message="broken")
            await context.write(message)


@pytest.fixture
async def fake() -> AsyncIterator[tuple[FakeExecutor, ExecutorDriver]]:
    servicer, server = FakeExecutor(), grpc.aio.server()
    executor_pb2_grpc.add_ExecutorServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = open_channel(f"127.0.0.1:{port}")
    yield servicer, ExecutorDriver(channel, pid=0)
    await channel.close()
    await server.stop(None)


async def test_all_prompts_run_at_once_and_all_tokens_are_counted(fake: tuple[FakeExecutor, ExecutorDriver]) -> None:
    servicer, driver = fake
    outcome = await driver.run(Case(prompts=[[5, 6], [7], [8]], output_tokens=4))
    assert (outcome.output_tokens, outcome.prompt_tokens, outcome.median_step_us) == (12, 4, 7)
    assert servicer.most_running == 3
    assert sorted(servicer.prompts) == [[5, 6], [7], [8]]


async def test_with_a_concurrency_the_next_request_starts_when_one_ends(
    fake: tuple[FakeExecutor, ExecutorDriver],
) -> None:
    servicer, driver = fake
    outcome = await driver.run(Case(prompts=[[number] for number in range(7)], output_tokens=3, concurrency=2))
    assert outcome.output_tokens == 21
    assert servicer.most_running == 2
    assert servicer.num_steps == 12  # four rounds of three: both ends of a round are replaced at once
    assert len(servicer.prompts) == 7


async def test_cases_share_a_stream(fake: tuple[FakeExecutor, ExecutorDriver]) -> None:
    servicer, driver = fake
    for _ in range(3):
        assert (await driver.run(Case(prompts=[[5, 6], [7]], output_tokens=2))).output_tokens == 4
    assert servicer.num_streams == 1


async def test_a_request_that_fails_ends_the_measurement_and_the_next_case_has_a_new_stream(
    fake: tuple[FakeExecutor, ExecutorDriver],
) -> None:
    servicer, driver = fake
    servicer.fails = True
    with pytest.raises(ExecutorFailed, match="broken"):
        await asyncio.wait_for(driver.run(Case(prompts=[[1]], output_tokens=1)), 10)
    servicer.fails = False
    outcome = await asyncio.wait_for(driver.run(Case(prompts=[[1]], output_tokens=1)), 10)
    assert (outcome.output_tokens, servicer.num_streams) == (1, 2)


async def test_each_request_has_its_own_number_of_tokens_and_the_temperature_of_the_case(
    fake: tuple[FakeExecutor, ExecutorDriver],
) -> None:
    servicer, driver = fake
    outcome = await driver.run(Case(prompts=[[1], [2], [3]], output_tokens=[5, 1, 3], temperature=0.5))
    assert (outcome.output_tokens, servicer.num_steps, servicer.temperatures) == (9, 5, {0.5})


async def test_an_executor_that_gives_fewer_tokens_than_asked_for_is_not_measured(
    fake: tuple[FakeExecutor, ExecutorDriver],
) -> None:
    servicer, driver = fake
    servicer.ends_early = True
    with pytest.raises(ExecutorFailed, match="produced 2 tokens where 3"):
        await driver.run(Case(prompts=[[1]], output_tokens=3))
