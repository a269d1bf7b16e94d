"""Spans of the gateway, as a collector sees them."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.gateway.conftest import Deploy

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans += scope.spans
        return trace_service_pb2.ExportTraceServiceResponse()


async def test_the_gateways_span_is_below_the_clients_and_above_the_services(deploy: Deploy) -> None:
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    deployment = await deploy(otlp_endpoint=f"http://127.0.0.1:{port}")
    body = {"messages": [{"role": "user", "content": "x"}]}
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "x-request-id": "mine"}
    assert (await deployment.client.post("/v1/chat/completions", json=body, headers=headers)).status_code == 200
    (submission,) = deployment.chain.backend.submissions
    await asyncio.to_thread(deployment.service.gateway.telemetry.close)
    server.stop(None)
    (span,) = collector.spans
    assert span.name == "HTTP POST /v1/chat/completions"
    assert span.trace_id.hex() == TRACE
    assert span.parent_span_id.hex() == PARENT
    assert submission.traceparent == f"00-{TRACE}-{span.span_id.hex()}-01"
    assert deployment.chain.tokenizer.traceparents == [submission.traceparent]
