"""The public gRPC API."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import grpc
import grpc.aio
import pytest

from bough.rpc.v1 import gateway_pb2, gateway_pb2_grpc, tokenizer_pb2
from tests.gateway.conftest import Deploy, Deployment

if TYPE_CHECKING:
    Stub = gateway_pb2_grpc.InferenceAsyncStub
STOP = 1


@pytest.fixture
async def stub(deployment: Deployment) -> AsyncIterator[Stub]:
    async with grpc.aio.insecure_channel(deployment.grpc_address) as channel:
        yield gateway_pb2_grpc.InferenceStub(channel)


async def test_the_model_describes_itself(stub: Stub) -> None:
    identity = (await stub.DescribeModel(gateway_pb2.DescribeModelRequest())).identity
    assert (identity.model, identity.max_context) == ("tiny", 256)


@pytest.mark.parametrize(
    "prompt",
    [
        gateway_pb2.GenerateRequest(text="ab"),
        gateway_pb2.GenerateRequest(token_ids=tokenizer_pb2.TokenIds(ids=[97, 98])),
        gateway_pb2.GenerateRequest(chat=gateway_pb2.ChatPrompt(messages_json='[{"role":"user","content":"ab"}]')),
    ],
)
async def test_each_kind_of_prompt_is_continued(stub: Stub, prompt: gateway_pb2.GenerateRequest) -> None:
    prompt.n = 2
    texts, ends = {0: "", 1: ""}, {}
    async for response in stub.Generate(prompt):
        texts[response.index] += response.text
        if response.finish_reason:
            ends[response.index] = response
    assert texts == {0: "echo of ab", 1: "echo of ab"}
    for end in ends.values():
        assert end.finish_reason == STOP
        assert end.next_position == end.usage.completion_tokens == 10
        assert (end.usage.prompt_tokens, end.usage.cached_tokens) == (2, 1)


@pytest.mark.parametrize(
    ("request_", "code", "said"),
    [
        (gateway_pb2.GenerateRequest(), grpc.StatusCode.INVALID_ARGUMENT, "prompt"),
        (gateway_pb2.GenerateRequest(text="x", temperature=float("nan")), grpc.StatusCode.INVALID_ARGUMENT, "NaN"),
        (gateway_pb2.GenerateRequest(text="x", n=129), grpc.StatusCode.INVALID_ARGUMENT, "from 1 to 128"),
        (gateway_pb2.GenerateRequest(text="x", logit_bias={1: 101}), grpc.StatusCode.INVALID_ARGUMENT, "logit_bias"),
        (gateway_pb2.GenerateRequest(text="x", regex="bad"), grpc.StatusCode.INVALID_ARGUMENT, "regex"),
        (gateway_pb2.GenerateRequest(text="x" * 256), grpc.StatusCode.INVALID_ARGUMENT, "256 tokens"),
        (gateway_pb2.GenerateRequest(text="x", model="gpt"), grpc.StatusCode.NOT_FOUND, "'gpt'"),
    ],
)
async def test_the_rules_of_rest_hold(
    stub: Stub, request_: gateway_pb2.GenerateRequest, code: grpc.StatusCode, said: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Generate(request_).read()
    assert refused.value.code() is code
    assert said in (refused.value.details() or "")


async def test_a_full_queue_says_when_to_try_again(deployment: Deployment, stub: Stub) -> None:
    deployment.chain.backend.rejection = (8, "full", 2500)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Generate(gateway_pb2.GenerateRequest(text="x")).read()
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata() or ())["retry-after-ms"] == "2500"


async def test_cancelling_the_call_cancels_the_generation(deployment: Deployment, stub: Stub) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    call = stub.Generate(gateway_pb2.GenerateRequest(text="x", n=2))
    await backend.wait_for(lambda: bool(backend.runs))
    backend.advance(3)
    await call.read()
    call.cancel()
    await backend.wait_for(lambda: all(run.cancelled for run in backend.runs.values()))


async def test_a_generation_goes_on_in_another_call_from_where_the_client_is(
    deployment: Deployment, stub: Stub
) -> None:
    backend = deployment.chain.backend
    backend.automatic = False
    backend.reply = lambda prompt, sibling: f"{sibling}" * 9
    first = stub.Generate(gateway_pb2.GenerateRequest(text="ab", n=2))
    await backend.wait_for(lambda: bool(backend.runs))
    backend.advance(5)
    seen, generation = {0: "", 1: ""}, ""
    while seen != {0: "00000", 1: "11111"}:
        response = await first.read()
        assert isinstance(response, gateway_pb2.GenerateResponse)
        seen[response.index] += response.text
        generation = response.generation
    again = stub.ResumeGenerate(
        gateway_pb2.ResumeGenerateRequest(generation=generation, positions=[5, 3], text_offsets=[5, 3])
    )
    pieces, texts = aiter(again), {0: "", 1: ""}
    while texts[1] != "11":
        piece = await anext(pieces)
        texts[piece.index] += piece.text
    with pytest.raises(grpc.aio.AioRpcError, match="another call"):
        await first.read()
    backend.automatic = True
    backend.notify()
    async for piece in pieces:
        texts[piece.index] += piece.text
        if piece.finish_reason:
            assert (piece.usage.prompt_tokens, piece.usage.completion_tokens) == (2, 9)
    assert texts == {0: "0000", 1: "111111"}
    assert not any(run.cancelled for run in backend.runs.values())


async def test_a_generation_nobody_knows_cannot_go_on(stub: Stub) -> None:
    for generation, code in (
        ("BQAAAAEAAAAAAAAA", grpc.StatusCode.NOT_FOUND),
        ("rubbish!", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.ResumeGenerate(
                gateway_pb2.ResumeGenerateRequest(generation=generation, positions=[0], text_offsets=[0])
            ).read()
        assert refused.value.code() is code


async def test_the_key_is_asked_for(deploy: Deploy) -> None:
    deployment = await deploy(api_key="secret")
    async with grpc.aio.insecure_channel(deployment.grpc_address) as channel:
        stub: Stub = gateway_pb2_grpc.InferenceStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.DescribeModel(gateway_pb2.DescribeModelRequest())
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        await stub.DescribeModel(gateway_pb2.DescribeModelRequest(), metadata=(("authorization", "Bearer secret"),))
