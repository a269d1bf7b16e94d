"""A grammar service for tests: only `Fetch`, which is all that an executor calls."""

from __future__ import annotations

from typing import Any

import grpc.aio

from bough.rpc.v1 import grammar_pb2 as pb
from bough.rpc.v1 import grammar_pb2_grpc


class FetchOnlyService(grammar_pb2_grpc.GrammarServiceServicer):
    """To be given a `Fetch`."""

    async def Compile(
        self, request: pb.CompileRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.CompileResponse:
        raise NotImplementedError

    async def Describe(
        self, request: pb.GrammarDescribeRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.GrammarDescribeResponse:
        raise NotImplementedError
