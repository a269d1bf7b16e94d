"""The workloads that engines without their servers are compared on: token ids in and out, temperature 1, no end."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bough.load.executor_driver import Case
from bough.load.floors import ModelSize

_TEMPERATURE = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """How large the workloads are."""

    rows: Sequence[int] = (1, 8, 32, 64, 128, 256)
    decode_prompt: int = 128
    decode_short: int = 4
    decode_long: int = 260
    requests: int = 256
    lengths: tuple[int, int] = (100, 1024)
    """Of prompts and outputs, uniform."""
    prefill: tuple[int, int] = (32, 4096)
    prefixes: tuple[int, int] = (8, 2048)
    """How many, of how many tokens."""
    shared: tuple[int, int, int] = (256, 128, 64)
    """Requests below the prefixes, tokens of each beside its prefix, tokens out."""
    closed: tuple[int, int] = (512, 256)
    """Tokens in and out of the closed loops, which the servers are measured with too."""
    closed_rows: Sequence[int] = (64, 256)


FULL = Sizes()
SMALL = Sizes(
    rows=(1, 8),
    decode_prompt=32,
    decode_long=20,
    requests=12,
    lengths=(8, 48),
    prefill=(4, 256),
    prefixes=(2, 64),
    shared=(8, 16, 4),
    closed=(32, 16),
    closed_rows=(4,),
)
"""Seconds on a CPU: shows that everything runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Cases that are run one after the other, and the number that their durations give."""

    key: str
    unit: str
    make: Callable[[random.Random], list[Case]]
    value: Callable[[list[float]], float]
    """Of the seconds of each case."""
    floor: float | None
    """What one H200 could reach at most; None where nothing says."""

    @property
    def is_time(self) -> bool:
        """Whether less is better."""
        return self.unit == "ms"


def workloads(size: ModelSize, sizes: Sizes = FULL) -> list[Workload]:
    """All of them, for a model.

    Args:
        size: The model; its vocabulary bounds the token ids, its weights give the floors.
        sizes: How large.
    """
    found = [_decode(size, sizes, rows) for rows in sizes.rows]
    return [*found, _mixed(size, sizes), _prefill(size, sizes), _shared(size, sizes)]


def closed_loops(size: ModelSize, sizes: Sizes = FULL) -> list[Workload]:
    """What the servers are asked for, directly of an engine."""
    return [_closed_loop(size, sizes, rows) for rows in sizes.closed_rows]


def _closed_loop(size: ModelSize, sizes: Sizes, rows: int) -> Workload:
    """`rows` requests at once, four times as many in all."""
    num_in, num_out = sizes.closed

    def make(rng: random.Random) -> list[Case]:
        prompts = [_ids(rng, size, num_in) for _ in range(4 * rows)]
        return [Case(prompts=prompts, output_tokens=num_out, concurrency=rows, temperature=_TEMPERATURE)]

    return Workload(
        key=f"closed {rows}",
        unit="tok/s",
        make=make,
        value=lambda seconds: 4 * rows * num_out / seconds[0],
        floor=None,
    )


def _ids(rng: random.Random, size: ModelSize, count: int) -> list[int]:
    # The ends of a vocabulary hold single bytes and special tokens.
    return [rng.randrange(size.vocab_size // 10, size.vocab_size * 9 // 10) for _ in range(count)]


def _decode(size: ModelSize, sizes: Sizes, rows: int) -> Workload:
    steps = sizes.decode_long - sizes.decode_short

    def make(rng: random.Random) -> list[Case]:
        return [
            Case(
                prompts=[_ids(rng, size, sizes.decode_prompt) for _ in range(rows)],
                output_tokens=count,
                temperature=_TEMPERATURE,
            )
            for count in (sizes.decode_short, sizes.decode_long)
        ]

    context = sizes.decode_prompt + sizes.decode_long // 2
    return Workload(
        key=f"decode {rows}",
        unit="ms",
        make=make,
        value=lambda seconds: 1000 * (seconds[1] - seconds[0]) / steps,
        floor=1000 * size.decode_step_s(rows, rows * context),
    )


def _mixed(size: ModelSize, sizes: Sizes) -> Workload:
    # The lengths are the same in every round and for every engine; only the tokens change.
    lengths = random.Random(0)
    prompts = [lengths.randint(*sizes.lengths) for _ in range(sizes.requests)]
    outputs = [lengths.randint(*sizes.lengths) for _ in range(sizes.requests)]

    def make(rng: random.Random) -> list[Case]:
        ids = [_ids(rng, size, count) for count in prompts]
        return [Case(prompts=ids, output_tokens=outputs, temperature=_TEMPERATURE)]

    least_s = sum(map(size.prefill_s, prompts)) + size.decode_s(prompts, outputs)
    return Workload(
        key="mixed",
        unit="tok/s",
        make=make,
        value=lambda seconds: sum(outputs) / seconds[0],
        floor=sum(outputs) / least_s,
    )


def _prefill(size: ModelSize, sizes: Sizes) -> Workload:
    count, length = sizes.prefill

    def make(rng: random.Random) -> list[Case]:
        prompts = [_ids(rng, size, length) for _ in range(count)]
        return [Case(prompts=prompts, output_tokens=1, temperature=_TEMPERATURE)]

    return Workload(
        key="prefill",
        unit="tok/s",
        make=make,
        value=lambda seconds: count * length / seconds[0],
        floor=length / size.prefill_s(length),
    )


def _shared(size: ModelSize, sizes: Sizes) -> Workload:
    num_prefixes, prefix_tokens = sizes.prefixes
    requests, own_tokens, out_tokens = sizes.shared

    def make(rng: random.Random) -> list[Case]:
        prefixes = [_ids(rng, size, prefix_tokens) for _ in range(num_prefixes)]
        prompts = [prefixes[number % num_prefixes] + _ids(rng, size, own_tokens) for number in range(requests)]
        return [Case(prompts=prompts, output_tokens=out_tokens, temperature=_TEMPERATURE)]

    least_s = num_prefixes * size.prefill_s(prefix_tokens)
    least_s += requests * size.prefill_s(own_tokens, prefix_tokens)
    least_s += size.decode_s([prefix_tokens + own_tokens] * requests, [out_tokens] * requests)
    return Workload(
        key="shared prefix",
        unit="req/s",
        make=make,
        value=lambda seconds: requests / seconds[0],
        floor=requests / least_s,
    )
