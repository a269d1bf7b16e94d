"""The tokenizer as a service on a real socket."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from transformers import AutoTokenizer

from bough.common.config import Settings
from bough.common.errors import ModelError
from bough.common.rpc.channel import open_channel
from bough.common.rpc.server import READY_SERVICE
from bough.rpc.v1 import telemetry_pb2, telemetry_pb2_grpc, tokenizer_pb2_grpc
from bough.rpc.v1 import tokenizer_pb2 as pb
from bough.tokenizer.chat import parse_chat
from bough.tokenizer.core import ChatTokenizer
from bough.tokenizer.service import create
from tests.helpers.tokenizer_files import CHATML, byte_level, write_chat_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_chat_model(tmp_path / "model")


@pytest.fixture
async def channel(model: Path, tmp_path: Path) -> AsyncIterator[grpc.aio.Channel]:
    service = create(Settings(model=model, run_dir=tmp_path))
    await service.start()
    async with open_channel(f"unix:{tmp_path}/tokenizer.sock") as opened:
        yield opened
    await service.drain(1)
    await service.stop()


async def test_describe_tells_model_and_template(channel: grpc.aio.Channel, model: Path) -> None:
    answer = await tokenizer_pb2_grpc.TokenizerServiceStub(channel).Describe(pb.TokenizerDescribeRequest())
    assert answer.identity.model == model.name
    assert answer.identity.vocab_size == byte_level().get_vocab_size()
    assert answer.has_chat_template and answer.epoch
    assert answer.chat_template == CHATML


async def test_concurrent_calls_get_their_own_ids(channel: grpc.aio.Channel) -> None:
    stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
    texts = [[f"text {i} {j}" for j in range(i % 4)] for i in range(60)]
    answers = await asyncio.gather(*(stub.Encode(pb.EncodeRequest(texts=batch)) for batch in texts))
    tokenizer = byte_level()
    for batch, answer in zip(texts, answers, strict=True):
        assert [list(e.ids) for e in answer.encodings] == [tokenizer.encode(text).ids for text in batch]


async def test_a_chat_is_rendered_and_encoded_as_in_transformers(channel: grpc.aio.Channel, model: Path) -> None:
    messages = [{"role": "user", "content": "Hello <|im_end|> né"}]
    answer = await tokenizer_pb2_grpc.TokenizerServiceStub(channel).EncodeChat(
        pb.EncodeChatRequest(messages_json=json.dumps(messages), add_generation_prompt=True)
    )
    theirs = AutoTokenizer.from_pretrained(str(model)).apply_chat_template(messages, add_generation_prompt=True)
    assert list(answer.ids) == dict(theirs)["input_ids"]  # type: ignore[arg-type]
    assert answer.text.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("is_open", [False, True])
async def test_what_messages_add_to_a_chat_is_encoded_alone(channel: grpc.aio.Channel, is_open: bool) -> None:
    stub = tokenizer_pb2_grpc.TokenizerServiceStub(channel)
    messages = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Ho"},
        {"role": "user", "content": "né?"},
    ]
    answer = await stub.EncodeChat(
        pb.EncodeChatRequest(
            messages_json=json.dumps(messages), add_generation_prompt=True, num_known=2, known_is_open=is_open
        )
    )
    end = "<|im_end|>\n" if is_open else ""
    assert answer.text == f"{end}<|im_start|>user\nné?<|im_end|>\n<|im_start|>assistant\n"
    assert list(answer.ids) == byte_level().encode(answer.text, add_special_tokens=False).ids
    assert not answer.replaces
    with pytest.raises(grpc.aio.AioRpcError, match="num_known is 4; the chat has 3 messages"):
        await stub.EncodeChat(pb.EncodeChatRequest(messages_json=json.dumps(messages), num_known=4))


async def test_a_template_that_writes_known_messages_otherwise_gives_the_whole_chat(tmp_path: Path) -> None:
    last_only = "{% for m in messages %}{% if loop.last %}{{ m.content }}{% else %}-{% endif %}{% endfor %}"
    tokenizer = ChatTokenizer.from_directory(write_chat_model(tmp_path / "model", chat_template=last_only))
    chat = parse_chat('[{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]')
    ids, text, replaces = await tokenizer.encode_added(chat, chat.first(1, is_open=False))
    assert text == "-two" and replaces
    assert ids == byte_level().encode("-two", add_special_tokens=False).ids
    tokenizer.close()


async def test_a_bad_chat_is_an_invalid_argument_that_names_the_field(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await tokenizer_pb2_grpc.TokenizerServiceStub(channel).EncodeChat(pb.EncodeChatRequest(messages_json="{}"))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.details() == "messages must be a JSON array of objects, got object"


async def test_too_many_texts_are_refused(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="1025 texts; at most 1024"):
        await tokenizer_pb2_grpc.TokenizerServiceStub(channel).Encode(pb.EncodeRequest(texts=["x"] * 1025))


async def test_it_is_ready_and_shows_metrics(channel: grpc.aio.Channel) -> None:
    await tokenizer_pb2_grpc.TokenizerServiceStub(channel).Encode(pb.EncodeRequest(texts=["a"]))
    health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(service=READY_SERVICE))
    assert health.status == health_pb2.HealthCheckResponse.SERVING
    metrics = await telemetry_pb2_grpc.IntrospectionServiceStub(channel).Metrics(telemetry_pb2.MetricsRequest())
    assert [process.service for process in metrics.processes] == ["tokenizer"]
    assert b"bough_tokenizer_texts_total" in metrics.processes[0].exposition


async def test_without_a_model_it_does_not_start() -> None:
    service = create(Settings(model=None))
    with pytest.raises(ModelError, match="no model directory"):
        await service.start()
    await service.stop()


def test_the_process_carries_no_torch() -> None:
    code = (
        "import sys, bough.tokenizer.service; print(sorted({'torch', 'transformers', 'xgrammar'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
