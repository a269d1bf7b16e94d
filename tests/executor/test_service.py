"""The executor as a whole on a real socket: loads a tiny model, runs requests, drains, and says why it cannot."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import torch
import xgrammar
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.config import Settings
from bough.common.errors import InternalError, ModelError
from bough.common.grammar_form import grammar_format, write_grammar
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import READY_SERVICE, RpcServer
from bough.executor.engine import Engine
from bough.executor.orders import StepReport
from bough.executor.service import ExecutorService, _warn_of_settings_without_effect
from bough.rpc.v1 import common_pb2, executor_pb2_grpc, grammar_pb2, grammar_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from bough.rpc.v1 import executor_pb2 as pb
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.engines import admission, generate, load_runner, make_engine, random_tokens
from tests.helpers.grammar_service import FetchOnlyService
from tests.helpers.tokenizer_files import byte_level

EOS = 2


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = write_checkpoint("qwen3", tmp_path_factory.mktemp("model"))
    byte_level().save(str(path / "tokenizer.json"))
    return path


def settings_of(model_dir: Path, run_dir: Path, **fields: Any) -> Settings:
    return Settings(model=model_dir, run_dir=run_dir, kv_pages=200, max_rows=16, token_budget=128, threads=1, **fields)


class Client:
    """A scheduler that runs one request after the other."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        stub: executor_pb2_grpc.ExecutorServiceAsyncStub = executor_pb2_grpc.ExecutorServiceStub(channel)
        self.health = health_pb2_grpc.HealthStub(channel)
        self.introspection: telemetry_pb2_grpc.IntrospectionServiceAsyncStub = (
            telemetry_pb2_grpc.IntrospectionServiceStub(channel)
        )
        self.call = stub.Run()
        self._sent = self._received = 0

    async def send(self, **fields: Any) -> None:
        self._sent += 1
        await self.call.write(pb.RunRequest(seq=self._sent, ack=self._received, **fields))

    async def read(self) -> pb.RunResponse:
        message = await asyncio.wait_for(self.call.read(), 30)
        assert isinstance(message, pb.RunResponse)
        self._received = message.seq
        return message

    async def attach(self) -> pb.ExecutorAttached:
        await self.send(attach=pb.ExecutorAttach())
        return (await self.read()).attached

    async def run(self, request: int, prompt: list[int], **sampling: Any) -> tuple[list[int], int]:
        """Tokens and finish reason of a request."""
        params = common_pb2.SamplingParams(**{"top_p": 1, "repetition_penalty": 1, "max_tokens": 8, **sampling})
        await self.send(admits=[pb.Admit(requests=[request], prompt=prompt, sampling=params)])
        tokens: list[int] = []
        while True:
            message = await self.read()
            assert not message.errors, message.errors
            tokens += message.tokens.tokens
            if any(message.tokens.finish):
                await self.send()
                return tokens, max(message.tokens.finish)


@contextlib.asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[tuple[ExecutorService, Client]]:
    ended = asyncio.Event()
    service = ExecutorService(settings, exit_process=ended.set)
    await service.start()
    try:
        async with open_channel(settings.address_of("executor")) as channel:
            yield service, Client(channel)
    finally:
        await service.stop()


async def is_ready(client: Client) -> bool:
    answer = await client.health.Check(health_pb2.HealthCheckRequest(service=READY_SERVICE))
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def test_requests_get_the_engines_tokens_and_metrics_count_them(model_dir: Path, tmp_path: Path) -> None:
    prompt = random_tokens(40, 1)
    expected = generate(make_engine(load_runner(model_dir), eos=[EOS]), admission(1, prompt))
    async with served(settings_of(model_dir, tmp_path)) as (service, client):
        attached = await client.attach()
        assert (attached.capacity.num_pages, attached.capacity.max_rows, attached.capacity.token_budget) == (
            200,
            16,
            128,
        )
        assert attached.identity.vocab_size == 512
        assert await is_ready(client)
        tokens, finish = await client.run(1, prompt)
        assert [tokens] == expected and finish == common_pb2.FINISH_REASON_LENGTH
        again, _ = await client.run(2, prompt)
        assert again == tokens
        metrics = await client.introspection.Metrics(telemetry_pb2.MetricsRequest())
        text = metrics.processes[0].exposition.decode()
        assert "bough_step_seconds_bucket" in text and "bough_kv_pages" in text
        await service.drain(10)
        assert not await is_ready(client)


async def test_the_engines_thread_sleeps_while_there_is_nothing_to_do(model_dir: Path, tmp_path: Path) -> None:
    async with served(settings_of(model_dir, tmp_path)) as (service, client):
        await client.attach()
        await client.run(1, [5, 6, 7])
        assert service._loop is not None
        clock = time.pthread_getcpuclockid(service._loop._thread.ident or 0)
        for _ in range(3):  # the last look for work after the last step
            before = time.clock_gettime(clock)
            await is_ready(client)
        for _ in range(200):
            await is_ready(client)
        assert time.clock_gettime(clock) - before < 0.001


class GrammarService(FetchOnlyService):
    """Compiles on each fetch."""

    async def Fetch(
        self, request: grammar_pb2.FetchRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[grammar_pb2.FetchResponse]:
        data = write_grammar(xgrammar.Grammar.from_json_schema(request.grammar.text))
        yield grammar_pb2.FetchResponse(format=grammar_format(), total_bytes=len(data), chunk=data)


async def test_a_grammar_is_fetched_from_a_service_that_comes_up_late(model_dir: Path, tmp_path: Path) -> None:
    schema = json.dumps({"enum": ["oak", "elm"]})
    server = RpcServer(f"unix:{tmp_path}/grammar.sock")
    grammar_pb2_grpc.add_GrammarServiceServicer_to_server(GrammarService(), server.server)
    async with served(settings_of(model_dir, tmp_path)) as (_, client):
        await client.attach()
        grammar = common_pb2.Grammar(key=b"k" * 32, kind=common_pb2.GRAMMAR_KIND_JSON_SCHEMA, text=schema)
        running = asyncio.create_task(client.run(1, [5, 6, 7], grammar=grammar, max_tokens=30))
        # Behind this answer the order has reached the executor, which finds no grammar service yet.
        await is_ready(client)
        await server.start()
        tokens, finish = await running
        assert finish == common_pb2.FINISH_REASON_STOP and tokens[-1] == EOS
        assert json.loads(byte_level().decode(tokens[:-1])) in ("oak", "elm")
        await server.stop(0)


async def test_draining_waits_for_the_requests_that_run(model_dir: Path, tmp_path: Path) -> None:
    async with served(settings_of(model_dir, tmp_path)) as (service, client):
        await client.attach()
        running = asyncio.create_task(client.run(1, [5, 6, 7], max_tokens=300, ignore_eos=True))
        while service._servicer is None or not service._servicer.has_work:  # noqa: ASYNC110
            await asyncio.sleep(0)
        await service.drain(60)
        tokens, _ = await running
        assert len(tokens) == 300


async def test_a_model_that_cannot_be_loaded_ends_the_process_with_the_reason(model_dir: Path, tmp_path: Path) -> None:
    broken = tmp_path / "model"
    shutil.copytree(model_dir, broken, ignore=shutil.ignore_patterns("*.safetensors*"))
    ended = asyncio.Event()
    service = ExecutorService(settings_of(broken, tmp_path), exit_process=ended.set)
    await service.start()
    await asyncio.wait_for(ended.wait(), 30)
    with pytest.raises(ModelError, match="safetensors"):
        await service.drain(0)
    await service.stop()


async def test_an_engine_that_fails_ends_the_process(
    model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def step(self: Engine) -> StepReport | None:
        raise AssertionError("planted")

    monkeypatch.setattr(Engine, "step", step)
    ended = asyncio.Event()
    service = ExecutorService(settings_of(model_dir, tmp_path), exit_process=ended.set)
    await service.start()
    async with open_channel(f"unix:{tmp_path}/executor.sock") as channel:
        client = Client(channel)
        await client.attach()
        await client.send(cancels=[1])
        await asyncio.wait_for(ended.wait(), 30)
    with pytest.raises(InternalError, match="planted"):
        await service.drain(0)
    assert "the engine failed" in caplog.text
    await service.stop()


def test_a_service_without_a_model_is_refused() -> None:
    with pytest.raises(ModelError, match="model"):
        ExecutorService(Settings(), exit_process=lambda: None)


async def test_settings_of_a_gpu_that_are_given_on_a_cpu_are_named_once_at_start(
    model_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    given = {"attention_prefill": "flashinfer", "compile": "default", "backend": "native"}
    async with served(settings_of(model_dir, tmp_path, device="cpu", **given)) as (_, client):
        await client.attach()
    (warning,) = [message for message in caplog.messages if "without effect" in message]
    assert "attention_prefill = 'flashinfer', compile = 'default'" in warning and "for a GPU alone" in warning
    assert "backend" not in warning and "threads" not in warning


def test_settings_of_a_cpu_that_are_given_on_a_gpu_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    settings = Settings(backend="torch", threads=4, attention_prefill="triton", compile="default")
    _warn_of_settings_without_effect(settings, torch.device("cuda", 0))
    (warning,) = caplog.messages
    assert "backend = 'torch', threads = 4;" in warning and "for a CPU alone" in warning
    assert "attention_prefill" not in warning and "compile" not in warning


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_settings_that_nobody_gave_are_not_named(device: str, caplog: pytest.LogCaptureFixture) -> None:
    _warn_of_settings_without_effect(Settings(), torch.device(device))
    assert not caplog.messages
