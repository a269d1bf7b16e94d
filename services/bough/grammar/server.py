"""The grammar service's gRPC side: decode, call, encode."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc.aio
from opentelemetry.metrics import Observation

from bough.common.codec import encode_identity
from bough.common.errors import InvalidRequestError
from bough.common.ids import new_epoch
from bough.common.model import ModelIdentity
from bough.common.sampling import Grammar, GrammarKind
from bough.common.telemetry import LATENCY_BUCKETS_S, Telemetry
from bough.grammar.core import Compiled, Grammars, Tier
from bough.rpc.v1 import grammar_pb2 as pb
from bough.rpc.v1 import grammar_pb2_grpc

CHUNK_BYTES = 1 << 16
TRACEPARENT_KEY = "traceparent"
"""Call metadata that carries the W3C trace context."""

Context = grpc.aio.ServicerContext[Any, Any]


class GrammarServicer(grammar_pb2_grpc.GrammarServiceServicer):
    """Serves `Grammars`.

    Args:
        grammars: What is served.
        identity: The model whose vocabulary is compiled for.
        telemetry: Takes the metrics.
        num_waiting: Says how many sources wait for a compiler.
    """

    def __init__(
        self, grammars: Grammars, identity: ModelIdentity, telemetry: Telemetry, num_waiting: Callable[[], int]
    ) -> None:
        self._grammars = grammars
        self._identity = identity
        self._telemetry = telemetry
        self._epoch = new_epoch()
        meter = telemetry.meter
        self._compiles = meter.create_counter("bough_grammar_compiles", description="Sources compiled")
        self._hits = meter.create_counter("bough_grammar_cache_hits", description="Sources found compiled, by tier")
        self._refused = meter.create_counter("bough_grammar_refused", description="Sources refused, by kind")
        meter.create_observable_gauge(
            "bough_grammar_waiting",
            [lambda _: [Observation(num_waiting())]],
            description="Sources that wait for a compiler",
        )
        self._compiles.add(0)  # so that it is shown before the first
        self._seconds = meter.create_histogram(
            "bough_grammar_seconds",
            unit="s",
            description="Time of a compilation, waiting for the compiler included",
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
        )

    async def Describe(self, request: pb.GrammarDescribeRequest, context: Context) -> pb.GrammarDescribeResponse:
        """What is served."""
        return pb.GrammarDescribeResponse(
            identity=encode_identity(self._identity), epoch=self._epoch, format=self._grammars.format_version
        )

    async def Compile(self, request: pb.CompileRequest, context: Context) -> pb.CompileResponse:
        """Compiles, or finds compiled."""
        start_ns = time.time_ns()
        kind = _kind(request.kind, "kind")
        try:
            compiled = await self._grammars.compile(kind, request.text)
        except InvalidRequestError:
            self._refused.add(1, {"kind": kind.name.lower()})
            raise
        self._note(context, start_ns, compiled)
        return pb.CompileResponse(key=compiled.key, compile_us=compiled.compile_us)

    async def Fetch(self, request: pb.FetchRequest, context: Context) -> AsyncIterator[pb.FetchResponse]:
        """The compiled form in chunks."""
        start_ns = time.time_ns()
        source = request.grammar
        compiled = await self._grammars.fetch(
            Grammar(key=source.key, kind=_kind(source.kind, "grammar.kind"), text=source.text)
        )
        self._note(context, start_ns, compiled)
        data = compiled.data
        for start in range(0, max(1, len(data)), CHUNK_BYTES):
            chunk = pb.FetchResponse(chunk=data[start : start + CHUNK_BYTES])
            if start == 0:
                chunk.format, chunk.total_bytes = self._grammars.format_version, len(data)
            yield chunk

    def _note(self, context: Context, start_ns: int, compiled: Compiled) -> None:
        if compiled.tier is not Tier.COMPILER:
            self._hits.add(1, {"tier": compiled.tier.value})
            return
        self._compiles.add(1)
        self._seconds.record(compiled.compile_us / 1e6)
        if self._telemetry.traces:
            traceparent = next((str(v) for k, v in context.invocation_metadata() or () if k == TRACEPARENT_KEY), "")
            span = self._telemetry.start_span("compile grammar", traceparent, start_ns=start_ns)
            span.set_attribute("bough.grammar.bytes", len(compiled.data))
            span.end()


def _kind(value: int, field: str) -> GrammarKind:
    try:
        return GrammarKind(value)
    except ValueError:
        accepted = ", ".join(kind.name for kind in GrammarKind)
        raise InvalidRequestError(f"{field}: {value} is not accepted; accepted are {accepted}", field=field) from None
