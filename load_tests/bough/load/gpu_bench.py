"""`bough bench offline`, `http` and `gpu`: engines on a GPU, ours and others, on the same workloads in one run.

One engine has the GPU at a time: each is started, measured and ended before the next one, since each takes most of the
memory. Every number is the median of some rounds after one that is not counted.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bough.load import dummy_model
from bough.load.bough_server import RunningServer, bough_server
from bough.load.cases import median
from bough.load.client_processes import ClientProcesses, Load
from bough.load.executor_driver import Case, ExecutorDriver, executor, running_executor
from bough.load.floors import ModelSize
from bough.load.gpu_peers import PEERS, SERVED, Peer, has_weights
from bough.load.http_client import Target
from bough.load.offline_cases import FULL, SMALL, Sizes, Workload, closed_loops, workloads
from bough.load.scenarios import Arrivals
from bough.load.served import only_model

OURS = "bough"
ENGINES = (OURS, *PEERS)
PARTS = ("offline", "closed", "http")

Say = Callable[[str], None]
RunCase = Callable[[Case], Awaitable[float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpSizes:
    """How large the loads on a server are."""

    concurrency: Sequence[int] = (1, 64, 256)
    prompt_tokens: int = 512
    output_tokens: int = 256
    requests_each: int = 4
    """Of each client; a single client makes eight."""
    chats: int = 64
    long_tokens: int = 8192
    long_per_s: float = 1.0
    beside_s: float = 10.0


FULL_HTTP = HttpSizes()
SMALL_HTTP = HttpSizes(
    concurrency=(1, 4), prompt_tokens=32, output_tokens=16, requests_each=2, chats=4, long_tokens=512, beside_s=3.0
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuOptions:
    """What is measured, and how."""

    models: Sequence[str]
    """Names of `dummy_model.SHAPES`, or model directories."""
    engines: Sequence[str] = ENGINES
    parts: Sequence[str] = PARTS
    small: bool = False
    repeats: int = 3
    first_port: int = 8200
    clients: int = 4
    log_dir: Path = Path(".bench")
    peers_dir: Path | None = None
    """Folder with `NAME/site` for each peer; one that is not there is left out."""
    executor_flags: Sequence[str] = ()
    serve_flags: Sequence[str] = ()

    @property
    def sizes(self) -> Sizes:
        """Of the workloads without a server."""
        return SMALL if self.small else FULL

    @property
    def http_sizes(self) -> HttpSizes:
        """Of the loads on a server."""
        return SMALL_HTTP if self.small else FULL_HTTP


class GpuBench:
    """All measurements of a run.

    Args:
        options: What is measured.
        say: Told what is being measured.
        save: Told all results so far, after each engine, so that a run that is cut off leaves what it had.
        known: What was measured before; all that is not measured now stays as it is.
    """

    def __init__(
        self,
        options: GpuOptions,
        say: Say,
        save: Callable[[dict[str, Any]], None],
        known: Mapping[str, Any] | None = None,
    ) -> None:
        self._options = options
        self._say = say
        self._save = save
        self._found: dict[str, Any] = dict(known or {"models": {}})

    async def run(self) -> dict[str, Any]:
        """Everything that the options name."""
        options = self._options
        options.log_dir.mkdir(parents=True, exist_ok=True)
        for name in options.models:
            model_dir = self._model_dir(name)
            size = ModelSize.read(model_dir)
            work = workloads(size, options.sizes)
            floors = {one.key: one.floor for one in work if one.floor is not None}
            model = self._found["models"].setdefault(model_dir.name, {"engines": {}})
            model["floors"] = floors
            engines = model["engines"]
            for engine in options.engines:
                if engine != OURS and self._site(engine) is None:
                    self._say(f"{engine} is not there: left out")
                    continue
                found = engines.setdefault(engine, {"values": {}})
                for part in options.parts:
                    if part == "closed" and engine != OURS:
                        continue
                    try:
                        if part == "http":
                            await self._http(engine, model_dir, found)
                        else:
                            await self._offline(engine, model_dir, found, part)
                    except Exception as error:
                        # The others can still be measured; the table shows what is missing and the exit status says so.
                        self._say(f"{engine}, {part}: {type(error).__name__}: {error}")
                        self._found.setdefault("errors", {})[f"{model_dir.name}, {engine}, {part}"] = str(error)
                    self._save(self._found)
        return self._found

    def _model_dir(self, name: str) -> Path:
        if name not in dummy_model.SHAPES:
            return Path(name)
        folder = self._options.log_dir / "models" / name
        if not (folder / "tokenizer_config.json").is_file():
            dummy_model.write(name, folder)
        return folder.resolve()

    def _site(self, engine: str) -> Path | None:
        if self._options.peers_dir is None:
            return None
        site = self._options.peers_dir / engine / "site"
        return site if site.is_dir() else None

    def _peer(self, engine: str) -> tuple[Peer, Path]:
        site = self._site(engine)
        assert site is not None
        return PEERS[engine], site

    def _log(self, engine: str, part: str, model_dir: Path) -> Path:
        return self._options.log_dir / f"{engine}-{part}-{model_dir.name}.log"

    async def _offline(self, engine: str, model_dir: Path, found: dict[str, Any], part: str) -> None:
        self._say(f"{engine}, {model_dir.name}: starting")
        size = ModelSize.read(model_dir)
        if engine == OURS:
            flags = [*format_flags(model_dir), *self._options.executor_flags]
            work = (workloads if part == "offline" else closed_loops)(size, self._options.sizes)
            async with executor(model_dir, flags) as driver:
                await offline_rounds(driver, work, self._options, found, self._say)
            return
        peer, site = self._peer(engine)
        async with peer.offline(model_dir, site, self._log(engine, "offline", model_dir)) as worker:

            async def run_case(case: Case) -> float:
                order = {"prompts": case.prompts, "output_tokens": case.outputs, "temperature": case.temperature}
                answer = await worker.ask(order)
                if answer["output_tokens"] != sum(case.outputs):
                    raise ValueError(f"{engine} produced {answer['output_tokens']} of {sum(case.outputs)} tokens")
                return float(answer["seconds"])

            found["version"] = worker.ready["version"]
            found["values"]["ready"] = worker.ready["ready_s"]
            work = workloads(size, self._options.sizes)
            await _rounds(run_case, work, self._options.repeats, found, self._say, engine)

    async def _http(self, engine: str, model_dir: Path, found: dict[str, Any]) -> None:
        options = self._options
        self._say(f"{engine}, {model_dir.name}: starting its server")
        log, port = self._log(engine, "server", model_dir), options.first_port
        starting: AbstractAsyncContextManager[RunningServer]
        if engine == OURS:
            flags = ["--served-model-name", SERVED, "--log-level", "warning", *format_flags(model_dir)]
            starting = bough_server(model_dir, port, log, *flags, *options.serve_flags)
        else:
            peer, site = self._peer(engine)
            starting = peer.serving(model_dir, site, port, log)
        async with starting as running:
            found["server_ready_s"] = round(running.ready_s, 2)
            await self._server(running, ModelSize.read(model_dir), found, engine)

    async def _server(self, running: RunningServer, size: ModelSize, found: dict[str, Any], engine: str) -> None:
        measured = await http_rounds(
            running.target, size, self._options, model=SERVED, say=lambda text: self._say(f"{engine}, {text}")
        )
        found["http"] = measured["runs"]
        values = found["values"] = found["values"] | measured["values"]
        for rows in self._options.http_sizes.concurrency:
            if f"closed {rows}" in values:
                values[f"share {rows}"] = values[f"http {rows} rate"] / values[f"closed {rows}"]


def format_flags(model_dir: Path) -> list[str]:
    """Flags of an engine of ours that make it serve a directory without weights."""
    return [] if has_weights(model_dir) else ["--load-format", "dummy"]


async def offline(model_dir: Path, options: GpuOptions, address: str | None, say: Say) -> dict[str, Any]:
    """Our executor alone: one that runs at `address`, or one that is started."""
    found: dict[str, Any] = {"values": {}}
    flags = [*format_flags(model_dir), *options.executor_flags]
    size = ModelSize.read(model_dir)
    work = [*workloads(size, options.sizes), *closed_loops(size, options.sizes)]
    async with executor(model_dir, flags) if address is None else running_executor(address) as driver:
        await offline_rounds(driver, work, options, found, say)
    floors = {one.key: one.floor for one in work}
    return {"models": {model_dir.name: {"floors": floors, "engines": {OURS: found}}}}


async def http(target: Target, model_dir: Path, options: GpuOptions, say: Say) -> dict[str, Any]:
    """A server that runs, ours or any other with OpenAI's API, under the served name that it has.

    Args:
        target: The server.
        model_dir: The model that it serves; the vocabulary is read from it.
        options: Sizes, repeats and clients.
        say: Told what is being measured.
    """
    measured = await http_rounds(target, ModelSize.read(model_dir), options, model=await only_model(target), say=say)
    found = {"http": measured["runs"], "values": measured["values"]}
    return {"models": {model_dir.name: {"floors": {}, "engines": {OURS: found}}}}


async def offline_rounds(
    driver: ExecutorDriver, work: Sequence[Workload], options: GpuOptions, found: dict[str, Any], say: Say
) -> None:
    """Workloads without a server on our executor; fills `found`."""

    async def run_case(case: Case) -> float:
        return (await driver.run(case)).seconds

    if driver.ready_s is not None:
        found["values"].setdefault("ready", driver.ready_s)
    await _rounds(run_case, work, options.repeats, found, say, OURS)


async def _rounds(
    run_case: RunCase, work: Sequence[Workload], repeats: int, found: dict[str, Any], say: Say, engine: str
) -> None:
    rng = random.Random(1)
    all_values: dict[str, list[float]] = {}
    for one in work:
        for number in range(repeats + 1):
            seconds = [await run_case(case) for case in one.make(rng)]
            # The first one warms up: compilers, allocators, caches of shapes.
            if number:
                all_values.setdefault(one.key, []).append(one.value(seconds))
        found["values"][one.key] = median(all_values[one.key])
        say(f"{engine}, {one.key}: {found['values'][one.key]:,.2f} {one.unit}")
    found.setdefault("rounds", {}).update(all_values)


async def http_rounds(target: Target, size: ModelSize, options: GpuOptions, *, model: str, say: Say) -> dict[str, Any]:
    """All loads on a server that serves a model of the name `model`.

    Returns:
        `values`, the median of each number, and `runs`, everything about each round.
    """
    sizes = options.http_sizes
    runs: dict[str, list[dict[str, Any]]] = {}
    async with ClientProcesses(options.clients, model=model, vocab_size=size.vocab_size * 9 // 10) as clients:
        for concurrency in sizes.concurrency:
            for number in range(options.repeats + 1):
                load = Load(
                    label="tokens",
                    prompt_tokens=sizes.prompt_tokens,
                    output_tokens=sizes.output_tokens,
                    arrivals=Arrivals(concurrency=concurrency),
                    num_requests=8 if concurrency == 1 else concurrency * (sizes.requests_each if number else 1),
                )
                run = await clients.run(target, [load], seed=100 * concurrency + number)
                _check(run)
                if number:
                    runs.setdefault(f"http {concurrency}", []).append(run)
            middle = runs[f"http {concurrency}"][-1]
            say(f"{concurrency} streams: {middle['output_tokens_per_s']:,.0f} tok/s")
        for number in range(options.repeats):
            run = await clients.run(target, _beside(sizes), seed=7 + number)
            _check(run)
            runs.setdefault("beside", []).append(run)
        say(f"chats beside long prompts: ITL {runs['beside'][-1]['by_label']['chat']['itl_ms']}")
    return {"values": _values(runs), "runs": runs}


def _beside(sizes: HttpSizes) -> list[Load]:
    chats = Load(
        label="chat",
        prompt_tokens=128,
        output_tokens=sizes.output_tokens,
        arrivals=Arrivals(concurrency=sizes.chats),
        duration_s=sizes.beside_s,
    )
    long = Load(
        label="long",
        prompt_tokens=sizes.long_tokens,
        output_tokens=8,
        arrivals=Arrivals(rate_per_s=sizes.long_per_s),
        duration_s=sizes.beside_s,
    )
    return [chats, long]


def _check(run: dict[str, Any]) -> None:
    if run["errors"] or not run["completed"]:
        raise ValueError(f"requests failed: {run['errors']}")


def _values(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    values: dict[str, float] = {}
    for key, rounds in runs.items():
        parts = [run["by_label"]["chat"] if key == "beside" else run for run in rounds]
        values[f"{key} itl_p50"] = median([part["itl_ms"]["p50"] for part in parts])
        values[f"{key} itl_p99"] = median([part["itl_ms"]["p99"] for part in parts])
        if key == "beside":
            values["beside spread"] = median([part["itl_ms"]["p99"] / part["itl_ms"]["p50"] for part in parts])
            continue
        values[f"{key} rate"] = median([part["output_tokens_per_s"] for part in parts])
        values[f"{key} ttft"] = median([part["ttft_ms"]["p50"] for part in parts])
        values[f"{key} tpot"] = median([part["tpot_ms"]["p50"] for part in parts])
    return values
