"""Has grammars compiled by the grammar service, and fetches them."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio

from bough.common.codec import encode_grammar, grammar_kind_to_wire
from bough.common.errors import UnavailableError
from bough.common.rpc.channel import from_rpc_error
from bough.common.sampling import Grammar, GrammarKind
from bough.rpc.v1 import grammar_pb2, grammar_pb2_grpc

ATTEMPTS = 8
ATTEMPT_TIMEOUT_S = 30.0
_BACKOFF_S = 0.1


async def fetch_grammar(channel: grpc.aio.Channel, grammar: Grammar) -> tuple[str, bytes]:
    """The format and the serialized form of a grammar; waits for a grammar service that restarts.

    Raises:
        BoughError: The service refuses, or stays away.
    """
    stub = grammar_pb2_grpc.GrammarServiceStub(channel)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _fetch_once(stub, grammar)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNAVAILABLE or attempt == ATTEMPTS:
                raise from_rpc_error(error, peer="the grammar service") from error
        await asyncio.sleep(_BACKOFF_S * 2 ** min(attempt, 4))
    raise AssertionError("unreachable: the last attempt returns or raises")


async def compile_schema(channel: grpc.aio.Channel, schema: str) -> Grammar:
    """Name the grammar of a JSON schema, compiled; waits for a grammar service that comes up late.

    Raises:
        BoughError: The service refuses, or stays away.
    """
    stub = grammar_pb2_grpc.GrammarServiceStub(channel)
    kind = GrammarKind.JSON_SCHEMA
    request = grammar_pb2.CompileRequest(kind=grammar_kind_to_wire(kind), text=schema)
    try:
        response = await stub.Compile(request, timeout=ATTEMPT_TIMEOUT_S, wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error, peer="the grammar service") from error
    return Grammar(key=response.key, kind=kind, text=schema)


async def _fetch_once(stub: grammar_pb2_grpc.GrammarServiceAsyncStub, grammar: Grammar) -> tuple[str, bytes]:
    written_by, total, pieces = "", 0, bytearray()
    call = stub.Fetch(grammar_pb2.FetchRequest(grammar=encode_grammar(grammar)), timeout=ATTEMPT_TIMEOUT_S)
    async for message in call:
        if not pieces and message.format:
            written_by, total = message.format, message.total_bytes
        pieces += message.chunk
    if len(pieces) != total:
        raise UnavailableError(f"the grammar service sent {len(pieces)} of {total} bytes")
    return written_by, bytes(pieces)
