"""What the gateway measures of its requests."""

from __future__ import annotations

import time

from bough.common.telemetry import LATENCY_BUCKETS_S, Telemetry
from bough.gateway.receiver import Call, Piece

INTER_TOKEN_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)


class GatewayMetrics:
    """The gateway's instruments."""

    def __init__(self, telemetry: Telemetry) -> None:
        meter = telemetry.meter
        self._requests = meter.create_counter(
            "bough.gateway.requests", description="Calls answered, by route and status"
        )
        self._prompt_tokens = meter.create_counter("bough.gateway.prompt.tokens", description="Tokens of prompts")
        self._cached_tokens = meter.create_counter(
            "bough.gateway.cached.tokens", description="Tokens of prompts that came from the prefix cache"
        )
        self._completion_tokens = meter.create_counter("bough.gateway.completion.tokens", description="Tokens produced")
        self._ttft = meter.create_histogram(
            "bough.gateway.ttft",
            unit="s",
            description="From the call to the first token",
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
        )
        self._inter_token = meter.create_histogram(
            "bough.gateway.inter.token",
            unit="s",
            description="Mean time between two tokens of a sequence, from the first to the last",
            explicit_bucket_boundaries_advisory=INTER_TOKEN_BUCKETS_S,
        )
        self._stall = meter.create_histogram(
            "bough.gateway.longest.gap",
            unit="s",
            description="Longest time between two pieces of a sequence",
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
        )
        self._e2e = meter.create_histogram(
            "bough.gateway.e2e",
            unit="s",
            description="From the call to its last token",
            explicit_bucket_boundaries_advisory=LATENCY_BUCKETS_S,
        )
        self._active = meter.create_up_down_counter("bough.gateway.active.calls", description="Generations under way")
        self._sessions = meter.create_up_down_counter(
            "bough.gateway.program.sessions", description="Streams of programs that are open"
        )
        self._program_calls = meter.create_counter(
            "bough.gateway.program.calls", description="Calls of programs, by kind and gRPC status"
        )

    def count(self, route: str, status: int) -> None:
        """A call was answered."""
        self._requests.add(1, {"route": route, "status": status})

    def session(self, change: int) -> None:
        """A stream of a program was opened (1) or has ended (-1)."""
        self._sessions.add(change)

    def program_call(self, kind: str, status: str) -> None:
        """A call of a program was answered."""
        self._program_calls.add(1, {"kind": kind, "status": status})

    def begin(self, call: Call) -> CallMeter:
        """A generation begins."""
        self._active.add(1)
        return CallMeter(self, call)

    def finish(self, meter: CallMeter) -> None:
        """A generation is over; what was gathered while it ran is recorded at once, so that a token costs little."""
        call = meter.call
        self._active.add(-1)
        self._prompt_tokens.add(sum(call.num_prompt_tokens))
        self._cached_tokens.add(call.num_cached_tokens)
        self._completion_tokens.add(sum(receiver.position for receiver in call.receivers))
        self._e2e.record(time.monotonic() - call.start_s)
        if meter.first_s:
            self._ttft.record(min(meter.first_s.values()) - call.start_s)
        for index, first_s in meter.first_s.items():
            gaps = call.receivers[index].position - 1
            if gaps > 0:
                self._inter_token.record((meter.last_s[index] - first_s) / gaps)
        if meter.longest_gap_s:
            self._stall.record(meter.longest_gap_s)


class CallMeter:
    """Times of one generation."""

    __slots__ = ("_metrics", "call", "first_s", "last_s", "longest_gap_s")

    def __init__(self, metrics: GatewayMetrics, call: Call) -> None:
        self._metrics = metrics
        self.call = call
        self.first_s: dict[int, float] = {}
        self.last_s: dict[int, float] = {}
        self.longest_gap_s = 0.0

    def saw(self, piece: Piece) -> None:
        """A piece is about to be delivered."""
        if not piece.tokens:
            return
        now, index = time.monotonic(), piece.index
        last_s = self.last_s.get(index)
        if last_s is None:
            self.first_s[index] = now
        elif now - last_s > self.longest_gap_s:
            self.longest_gap_s = now - last_s
        self.last_s[index] = now

    def finish(self) -> None:
        """The generation is over."""
        self._metrics.finish(self)
