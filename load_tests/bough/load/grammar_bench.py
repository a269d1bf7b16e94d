"""What structured output costs: `bough bench grammar`, on servers started for it, ours and others.

Throughput: closed loops of the same prompts, free and under a schema with long fixed keys, with jump-forward and
without. Time to first token: free, under a schema that is known, under one that nobody has seen. And streams of others
beside a stream of distinct schemas.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from bough.load.bough_server import RunningServer, bough_server
from bough.load.generator import Generator, Plan
from bough.load.gpu_peers import PEERS, has_weights
from bough.load.http_client import Target
from bough.load.results import markdown
from bough.load.scenarios import WORDS, Arrivals, Request

SERVED = "bench"
OURS, STEP_BY_STEP = "bough", "bough, no jump-forward"

_KEYS = (
    *("first_name_of_the_person", "family_name_of_the_person", "number_of_children_at_home"),
    *("kind_of_the_residence", "country_of_the_residence", "year_of_the_last_visit"),
)
_FEW_WORDS = {"enum": ["house", "flat", "boat", "tent"]}
_SMALL = {"type": "integer", "minimum": 0, "maximum": 99}

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class GrammarOptions:
    """What is measured, and how much of it."""

    model_dir: Path
    peers_dir: Path | None = None
    repeats: int = 3
    streams: int = 64
    requests: int = 256
    """Of a closed loop."""
    firsts: int = 40
    """Requests whose time to first token is taken."""
    schemas: int = 1000
    schemas_per_s: float = 50.0
    others: int = 16
    """Streams beside the distinct schemas."""
    port: int = 8200
    log_dir: Path = Path(".bench")
    serve_flags: tuple[str, ...] = ()


class GrammarBench:
    """All measurements of a run.

    Args:
        options: What is measured.
        say: Told what is being measured.
    """

    def __init__(self, options: GrammarOptions, say: Say) -> None:
        self._options = options
        self._say = say

    async def run(self) -> dict[str, Any]:
        """Each server in turn."""
        options = self._options
        options.log_dir.mkdir(parents=True, exist_ok=True)
        found: dict[str, Any] = {"engines": {}}
        for engine, start in self._servers().items():
            self._say(f"{engine}: starting its server")
            async with start() as running:
                found["engines"][engine] = await self._server(engine, running.target)
        return found

    def _servers(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[RunningServer]]]:
        options = self._options
        flags = ["--served-model-name", SERVED, "--log-level", "warning", *options.serve_flags]
        if not has_weights(options.model_dir):
            flags += ["--load-format", "dummy"]

        def ours(*more: str) -> Callable[[], AbstractAsyncContextManager[RunningServer]]:
            log = options.log_dir / f"grammar-{len(more)}.log"
            return lambda: bough_server(options.model_dir, options.port, log, *flags, *more)

        servers = {OURS: ours(), STEP_BY_STEP: ours("--jump-forward", "false")}
        site = None if options.peers_dir is None else options.peers_dir / "vllm" / "site"
        if site is not None and site.is_dir():
            log = options.log_dir / "grammar-vllm.log"
            servers["vllm"] = lambda: PEERS["vllm"].serving(options.model_dir, site, options.port, log)
        return servers

    async def _server(self, engine: str, target: Target) -> dict[str, float]:
        rounds: list[dict[str, float]] = []
        for number in range(self._options.repeats + 1):
            values = await self._round(target, number)
            self._say(
                f"{engine}, round {number}: " + ", ".join(f"{name} {value:,.1f}" for name, value in values.items())
            )
            if number:
                rounds.append(values)
        return {name: median(one[name] for one in rounds) for name in rounds[0]}

    async def _round(self, target: Target, number: int) -> dict[str, float]:
        options = self._options
        seed = 1000 * number
        loop = Plan(arrivals=Arrivals(concurrency=options.streams), num_requests=options.requests)
        schema = await _run(target, _people(seed), loop)
        length = round(schema["output_tokens"] / schema["completed"])
        free = await _run(target, _free(seed, length), loop)
        one = Plan(arrivals=Arrivals(concurrency=1), num_requests=options.firsts)
        first = {
            name: (await _run(target, source, one))["ttft_ms"]["p50"]
            for name, source in (
                ("free", _free(seed + 1, 4)),
                ("known", _people(seed + 1, max_tokens=4)),
                ("new", _new(seed + 1, max_tokens=4)),
            )
        }
        alone_s = options.schemas / options.schemas_per_s
        alone = await _run(target, _free(seed + 2, 64, "other"), self._others(alone_s))
        beside = await _beside(target, seed + 3, self._others(alone_s), options)
        return {
            "free, tokens/s": free["output_tokens_per_s"],
            "schema, tokens/s": schema["output_tokens_per_s"],
            "tokens of an answer": float(length),
            "TTFT free, ms": first["free"],
            "TTFT known schema, ms": first["known"],
            "TTFT new schema, ms": first["new"],
            "others alone: ITL p99, ms": alone["itl_ms"]["p99"],
            "others beside new schemas: ITL p99, ms": beside["itl_ms"]["p99"],
        }

    def _others(self, duration_s: float) -> Plan:
        return Plan(arrivals=Arrivals(concurrency=self._options.others), duration_s=duration_s)


def report(measured: Mapping[str, Any]) -> str:
    """The table, and the ratios that count."""
    engines: Mapping[str, Mapping[str, float]] = measured["engines"]
    names = list(engines)
    rows = [[name, *(f"{engines[engine][name]:,.1f}" for engine in names)] for name in next(iter(engines.values()))]
    for title, over, under in (
        ("schema / free", "schema, tokens/s", "free, tokens/s"),
        ("ITL p99 beside / alone", "others beside new schemas: ITL p99, ms", "others alone: ITL p99, ms"),
    ):
        rows.append([title, *(f"{engines[engine][over] / engines[engine][under]:.2f}" for engine in names)])
    text = markdown(["", *names], rows)
    if OURS in engines and STEP_BY_STEP in engines:
        gain = engines[OURS]["schema, tokens/s"] / engines[STEP_BY_STEP]["schema, tokens/s"]
        text += f"\n\njump-forward: {gain:.2f} x"
    return text


async def _run(target: Target, requests: Iterator[Request], plan: Plan) -> dict[str, Any]:
    found = await Generator(target, requests, plan).run()
    if found["errors"] or not found["completed"]:
        raise ValueError(f"requests failed: {found['errors']}")
    return found


async def _beside(target: Target, seed: int, plan: Plan, options: GrammarOptions) -> dict[str, Any]:
    """The streams of others, while distinct schemas come at their rate."""
    arrivals = Plan(arrivals=Arrivals(rate_per_s=options.schemas_per_s), num_requests=options.schemas, seed=seed)
    new = asyncio.create_task(_run(target, _new(seed, max_tokens=4), arrivals))
    others = await _run(target, _free(seed, 64, "other"), plan)
    await new
    return others


def _body(rng: random.Random, max_tokens: int, **more: Any) -> dict[str, Any]:
    words = " ".join(rng.choices(WORDS, k=40))
    return {
        "model": SERVED,
        "messages": [{"role": "user", "content": words}],
        "max_tokens": max_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **more,
    }


def _free(seed: int, max_tokens: int, label: str = "free") -> Iterator[Request]:
    rng = random.Random(seed)
    while True:
        yield Request(path="/v1/chat/completions", body=_body(rng, max_tokens, ignore_eos=True), label=label)


def _schema(keys: tuple[str, ...]) -> dict[str, Any]:
    values = itertools.cycle((_FEW_WORDS, _FEW_WORDS, _SMALL))
    return {
        "type": "object",
        "properties": dict(zip(keys, values, strict=False)),
        "required": list(keys),
        "additionalProperties": False,
    }


def _format(keys: tuple[str, ...]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "person", "schema": _schema(keys), "strict": True}}


def _people(seed: int, max_tokens: int = 400) -> Iterator[Request]:
    rng = random.Random(seed)
    while True:
        body = _body(rng, max_tokens, response_format=_format(_KEYS))
        yield Request(path="/v1/chat/completions", body=body, label="schema")


def _new(seed: int, max_tokens: int) -> Iterator[Request]:
    rng = random.Random(seed)
    for number in itertools.count():
        keys = tuple(f"{key}_{seed}_{number}" for key in _KEYS)
        body = _body(rng, max_tokens, response_format=_format(keys))
        yield Request(path="/v1/chat/completions", body=body, label="new schema")
