"""The detokenizer between a gateway and a scheduler, all on real sockets."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bough.common.codec import encode_identity
from bough.common.config import Settings
from bough.common.model import read_model_files
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import READY_SERVICE
from bough.detokenizer.service import DetokenizerService
from bough.rpc.v1 import common_pb2, detokenizer_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc
from bough.rpc.v1 import detokenizer_pb2 as pb
from tests.detokenizer.fake_scheduler import FakeScheduler, serve_scheduler
from tests.helpers.tokenizer_files import byte_level, write_chat_model

LEVEL = byte_level()
IDS = LEVEL.encode("naïve 中文 😀 text, END of it").ids
TEXT = LEVEL.decode(IDS)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_chat_model(tmp_path / "model")


@pytest.fixture
async def scheduler(tmp_path: Path) -> AsyncIterator[FakeScheduler]:
    fake = FakeScheduler(IDS)
    server = await serve_scheduler(f"unix:{tmp_path}/scheduler.sock", fake)
    yield fake
    await server.stop(0)


@asynccontextmanager
async def _detokenizer(model: Path, run_dir: Path, orphan_grace_s: float = 30) -> AsyncIterator[DetokenizerService]:
    service = DetokenizerService(Settings(model=model, run_dir=run_dir, orphan_grace_s=orphan_grace_s))
    await service.start()
    async with open_channel(f"unix:{run_dir}/detokenizer.sock") as channel:
        await _until_ready(channel, ready=True)
    try:
        yield service
    finally:
        await service.stop()


@pytest.fixture
async def detokenizer(model: Path, tmp_path: Path, scheduler: FakeScheduler) -> AsyncIterator[DetokenizerService]:
    async with _detokenizer(model, tmp_path) as service:
        yield service


async def _until_ready(channel: grpc.aio.Channel, *, ready: bool) -> None:
    wanted = health_pb2.HealthCheckResponse.SERVING if ready else health_pb2.HealthCheckResponse.NOT_SERVING
    watch = health_pb2_grpc.HealthStub(channel).Watch(
        health_pb2.HealthCheckRequest(service=READY_SERVICE), wait_for_ready=True
    )
    async for status in watch:
        if status.status == wanted:
            watch.cancel()
            return


class Gateway:
    """One stream of a gateway, and what it has received of request 7."""

    def __init__(self, run_dir: Path, before: Gateway | None = None) -> None:
        self._channel = open_channel(f"unix:{run_dir}/detokenizer.sock")
        self._call = detokenizer_pb2_grpc.DetokenizerServiceStub(self._channel).Stream(wait_for_ready=True)
        self._seq = 0
        self.text: str = before.text if before else ""
        self.tokens: int = before.tokens if before else 0
        self.finish = 0
        self.messages: list[pb.DetokenizerResponse] = []

    async def attach(self, identity: common_pb2.ModelIdentity | None = None) -> None:
        await self.send(pb.DetokenizerRequest(attach=common_pb2.Attach(peer="test", epoch=1, identity=identity)))
        message = await self.receive()
        assert message.HasField("attached")

    async def send(self, message: pb.DetokenizerRequest) -> None:
        self._seq += 1
        message.seq = self._seq
        await self._call.write(message)

    async def submit(self, *stop: str) -> None:
        text = common_pb2.TextOptions(stop=stop, skip_special_tokens=True)
        await self.send(pb.DetokenizerRequest(submits=[common_pb2.Submit(requests=[7], prompt=[1, 2], text=text)]))

    async def resume(self) -> None:
        point = common_pb2.Resume(request=7, position=self.tokens, text_offset=len(self.text))
        await self.send(pb.DetokenizerRequest(resumes=[point]))

    async def receive(self) -> pb.DetokenizerResponse:
        message = await self._call.read()
        assert isinstance(message, pb.DetokenizerResponse), "the stream ended"
        self.messages.append(message)
        columns = message.text
        start = 0
        for i, offset in enumerate(columns.offsets):
            assert (offset, columns.tokens.positions[i]) == (len(self.text), self.tokens)
            self.text += columns.text[start : start + columns.lengths[i]]
            start += columns.lengths[i]
            self.tokens += columns.tokens.counts[i] if columns.tokens.counts else 1
            self.finish = columns.tokens.finish[i] if columns.tokens.finish else 0
        return message

    async def receive_tokens(self, num_tokens: int) -> None:
        while self.tokens < num_tokens:
            await self.receive()

    async def receive_all(self) -> None:
        while not self.finish:
            await self.receive()

    async def close(self) -> None:
        self._call.cancel()
        await self._channel.close()


async def test_tokens_come_back_as_text(
    tmp_path: Path, detokenizer: DetokenizerService, scheduler: FakeScheduler
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.submit()
    for count in range(1, len(IDS) + 1):
        await scheduler.produce(count)
        await gateway.receive_tokens(count)
    await gateway.receive_all() if not gateway.finish else None
    assert (gateway.text, gateway.finish) == (TEXT, common_pb2.FINISH_REASON_LENGTH)
    await gateway.send(pb.DetokenizerRequest(released=[7]))
    await scheduler.until(lambda: any(7 in message.released for message in scheduler.seen))
    await gateway.close()


async def test_a_stop_string_is_told_to_gateway_and_scheduler(
    tmp_path: Path, detokenizer: DetokenizerService, scheduler: FakeScheduler
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.submit("END")
    await scheduler.produce(len(IDS) - 1)
    await gateway.receive_all()
    assert (gateway.text, gateway.finish) == (TEXT[: TEXT.index("END")], common_pb2.FINISH_REASON_STOP_STRING)
    assert list(gateway.messages[-1].text.stop_strings) == ["END"]
    await scheduler.until(lambda: any(7 in message.stopped for message in scheduler.seen))
    assert [list(m.stopped_lengths) for m in scheduler.seen if m.stopped] == [[gateway.tokens]]
    await gateway.close()


@pytest.mark.parametrize("at", [1, len(IDS) // 2, len(IDS) - 1])
async def test_a_killed_detokenizer_is_not_seen_in_the_text(
    tmp_path: Path, model: Path, scheduler: FakeScheduler, at: int
) -> None:
    async with _detokenizer(model, tmp_path):
        gateway = Gateway(tmp_path)
        await gateway.attach()
        await gateway.submit()
        await scheduler.produce(at)
        await gateway.receive_tokens(at)
    async with _detokenizer(model, tmp_path):
        again = Gateway(tmp_path, before=gateway)
        await again.attach()
        await again.resume()
        await scheduler.produce(len(IDS))
        await again.receive_all()
        assert again.text == TEXT
        await again.close()
    await gateway.close()


async def test_a_broken_gateway_stream_goes_on_where_it_was(
    tmp_path: Path, detokenizer: DetokenizerService, scheduler: FakeScheduler
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.submit()
    await scheduler.produce(5)
    await gateway.receive_tokens(5)
    await gateway.close()
    await scheduler.produce(9)
    again = Gateway(tmp_path, before=gateway)
    await again.attach()
    await again.resume()
    await scheduler.produce(len(IDS))
    await again.receive_all()
    assert again.text == TEXT
    await again.close()


async def test_a_broken_scheduler_stream_is_opened_again(
    tmp_path: Path, detokenizer: DetokenizerService, scheduler: FakeScheduler
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.submit()
    await scheduler.produce(5)
    await gateway.receive_tokens(5)
    await scheduler.break_stream()
    await scheduler.produce(len(IDS))
    await gateway.receive_all()
    assert (gateway.text, scheduler.streams) == (TEXT, 2)
    await gateway.close()


async def test_a_gateway_that_stays_away_has_its_requests_cancelled(
    tmp_path: Path, model: Path, scheduler: FakeScheduler
) -> None:
    async with _detokenizer(model, tmp_path, orphan_grace_s=0.05):
        gateway = Gateway(tmp_path)
        await gateway.attach()
        await gateway.submit()
        await scheduler.produce(1)
        await gateway.receive_tokens(1)
        await gateway.close()
        await scheduler.until(lambda: any(7 in message.cancels for message in scheduler.seen))


async def test_a_request_that_the_scheduler_does_not_know_is_an_error(
    tmp_path: Path, detokenizer: DetokenizerService
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.resume()
    message = await gateway.receive()
    assert [(error.request, error.code) for error in message.errors] == [(7, grpc.StatusCode.NOT_FOUND.value[0])]
    await gateway.close()


async def test_another_model_is_refused_with_both_values(
    tmp_path: Path, model: Path, detokenizer: DetokenizerService
) -> None:
    identity = encode_identity(read_model_files(model).identity)
    gateway = Gateway(tmp_path)
    await gateway.attach(identity)
    await gateway.close()
    identity.vocab_hash = b"\x01" * 32
    other = Gateway(tmp_path)
    with pytest.raises(grpc.aio.AioRpcError, match=r"vocab_hash differs: .* at gateway test") as caught:
        await other.attach(identity)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    await other.close()


async def test_a_stream_must_begin_with_attach(tmp_path: Path, detokenizer: DetokenizerService) -> None:
    gateway = Gateway(tmp_path)
    await gateway.submit()
    with pytest.raises(grpc.aio.AioRpcError, match="attach"):
        await gateway.receive()
    await gateway.close()


async def test_readiness_mirrors_the_schedulers(model: Path, tmp_path: Path) -> None:
    fake = FakeScheduler(IDS)
    server = await serve_scheduler(f"unix:{tmp_path}/scheduler.sock", fake, ready=False)
    service = DetokenizerService(Settings(model=model, run_dir=tmp_path))
    await service.start()
    async with open_channel(f"unix:{tmp_path}/detokenizer.sock") as channel:
        await fake.until(lambda: fake.seen)
        await _until_ready(channel, ready=False)
        await server.set_ready(True)
        await _until_ready(channel, ready=True)
        await server.set_ready(False)
        await _until_ready(channel, ready=False)
    await service.stop()
    await server.stop(0)


async def test_decode_gives_the_text_of_each_part(tmp_path: Path, detokenizer: DetokenizerService) -> None:
    async with open_channel(f"unix:{tmp_path}/detokenizer.sock") as channel:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        end = LEVEL.token_to_id("<|im_end|>") or 0
        request = pb.DecodeRequest(counts=[len(IDS), 0, 1], tokens=[*IDS, end], skip_special_tokens=False)
        assert list((await stub.Decode(request)).texts) == [TEXT, "", "<|im_end|>"]
        request.skip_special_tokens = True
        assert list((await stub.Decode(request)).texts) == [TEXT, "", ""]
        with pytest.raises(grpc.aio.AioRpcError, match="counts: they add up to 3") as caught:
            await stub.Decode(pb.DecodeRequest(counts=[3], tokens=[1]))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_describe_and_metrics(tmp_path: Path, model: Path, detokenizer: DetokenizerService) -> None:
    async with open_channel(f"unix:{tmp_path}/detokenizer.sock") as channel:
        stub = detokenizer_pb2_grpc.DetokenizerServiceStub(channel)
        answer = await stub.Describe(pb.DetokenizerDescribeRequest())
        assert answer.identity == encode_identity(read_model_files(model).identity)
        metrics = await telemetry_pb2_grpc.IntrospectionServiceStub(channel).Metrics(telemetry_pb2.MetricsRequest())
        assert b"bough_detokenizer_live_requests{" in metrics.processes[0].exposition


async def test_draining_waits_for_what_was_accepted(
    tmp_path: Path, detokenizer: DetokenizerService, scheduler: FakeScheduler
) -> None:
    gateway = Gateway(tmp_path)
    await gateway.attach()
    await gateway.submit()
    await scheduler.until(lambda: 7 in scheduler.submits)
    draining = asyncio.create_task(detokenizer.drain(30))
    await scheduler.produce(len(IDS))
    await gateway.receive_all()
    assert gateway.text == TEXT
    assert not draining.done()
    await gateway.send(pb.DetokenizerRequest(released=[7]))
    await draining
    await gateway.close()


def test_the_process_carries_no_torch() -> None:
    code = (
        "import sys, bough.detokenizer.service; print(sorted({'torch', 'transformers', 'xgrammar'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
