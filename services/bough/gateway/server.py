"""The gateway's gRPC face: the public Inference API, and metrics for whoever scrapes by gRPC."""

from __future__ import annotations

import secrets
from typing import Any

import grpc.aio

from bough.common.codec import encode_identity
from bough.common.requests import ResumePoint
from bough.common.sampling import FinishReason
from bough.gateway.app import ApiKey
from bough.gateway.codec import decode_generate, encode_piece
from bough.gateway.errors import refuse
from bough.gateway.generate import Generator, Running, generation_name, parse_generation
from bough.gateway.receiver import Call
from bough.gateway.surroundings import Surroundings
from bough.rpc.v1 import gateway_pb2, gateway_pb2_grpc, telemetry_pb2, telemetry_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]


class InferenceServicer(gateway_pb2_grpc.InferenceServicer):
    """Generates text for gRPC clients."""

    def __init__(self, generator: Generator, api_key: ApiKey) -> None:
        self._generator = generator
        self._api_key = api_key

    async def DescribeModel(
        self, request: gateway_pb2.DescribeModelRequest, context: Context
    ) -> gateway_pb2.DescribeModelResponse:
        """The model served."""
        self._api_key.check(metadata(context, "authorization"))
        return gateway_pb2.DescribeModelResponse(identity=encode_identity(self._generator.model.identity))

    async def Generate(  # type: ignore[override]  # as above; writes instead of yielding, so that a cancel ends it here
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> None:
        """Generates, streaming; the end of the call is the end of the generation."""
        self._api_key.check(metadata(context, "authorization"))
        call = Call(f"gen-{secrets.token_hex(12)}")
        traceparent = metadata(context, "traceparent").decode(errors="replace")
        async with self._generator.run(call, decode_generate(request), traceparent=traceparent) as running:
            await _write(running, context)

    async def ResumeGenerate(  # type: ignore[override]  # as above
        self, request: gateway_pb2.ResumeGenerateRequest, context: Context
    ) -> None:
        """Goes on with a generation from a position."""
        self._api_key.check(metadata(context, "authorization"))
        _, requests = parse_generation(request.generation)
        for name in ("positions", "text_offsets"):
            if len(values := getattr(request, name)) != len(requests):
                raise refuse(name, list(values), f"{len(requests)} values, one a continuation")
        points = [ResumePoint(*point) for point in zip(requests, request.positions, request.text_offsets, strict=True)]
        async with self._generator.resume(request.generation, points) as running:
            await _write(running, context)


class IntrospectionServicer(telemetry_pb2_grpc.IntrospectionServiceServicer):
    """Metrics of this process and of all services behind it."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._surroundings = surroundings

    async def Metrics(self, request: telemetry_pb2.MetricsRequest, context: Context) -> telemetry_pb2.MetricsResponse:
        """One entry a process."""
        processes = [
            telemetry_pb2.ProcessMetrics(service=p.service, instance=p.instance, exposition=p.exposition)
            for p in await self._surroundings.metrics()
        ]
        return telemetry_pb2.MetricsResponse(processes=processes)


async def _write(running: Running, context: Context) -> None:
    call = running.call
    requests = [receiver.request for receiver in call.receivers]
    generation = generation_name(call.num_prompt_tokens[0], requests)
    num_open = len(requests)
    while num_open:
        for piece in await call.pieces():
            running.saw(piece)
            num_open -= piece.finish is not FinishReason.NONE
            await context.write(encode_piece(call, generation, piece))


def metadata(context: Context, key: str) -> bytes:
    """A value of a call's metadata; empty where there is none."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, bytes) else str(value).encode()
    return b""
