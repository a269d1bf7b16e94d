"""Bough and the engines a CPU user has, on the same checkpoint in the same run, one after the other and in turns."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bough.load.bough_server import RunningServer, ready_server
from bough.load.cases import decode_case, median, prefill_case
from bough.load.children import Worker, worker
from bough.load.executor_driver import Case, ExecutorDriver, executor
from bough.load.rest import RestMeasurement

DECODE_ROWS = (1, 16, 64, 256)
PREFILL = "prefill"
_PEERS = Path(__file__).parent / "peers"
_VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "4"}
_START_TIMEOUT_S = 400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Peers:
    """Python interpreters of environments that have the other engines; None leaves one out."""

    vllm: Path | None = None
    transformers: Path | None = None


class Comparison:
    """All measurements of `bough bench`.

    Args:
        model_dir: The checkpoint that every engine serves.
        peers: The other engines.
        first_port: Servers listen on this port and those above it.
        repeats: Each number is the median of so many.
        log_dir: Where the output of the processes goes.
        say: Told what is being measured.
    """

    def __init__(
        self,
        model_dir: Path,
        peers: Peers,
        *,
        first_port: int,
        repeats: int,
        log_dir: Path,
        say: Callable[[str], None],
    ) -> None:
        self._model_dir = model_dir
        self._peers = peers
        self._first_port = first_port
        self._repeats = repeats
        self._log_dir = log_dir
        self._say = say
        self._rng = random.Random(0)

    async def run(self) -> dict[str, Any]:
        """Everything; takes about ten minutes with the peers, three without."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        offline = await self._offline()
        rest = await self._rest()
        return {"offline": offline, **rest}

    async def _offline(self) -> dict[str, Any]:
        async with AsyncExitStack() as stack:
            self._say("starting the engines without their servers")
            engines: dict[str, Worker] = {}
            if self._peers.vllm is not None:
                engines["vllm"] = await stack.enter_async_context(self._vllm(self._peers.vllm))
            if self._peers.transformers is not None:
                program = [str(self._peers.transformers), str(_PEERS / "transformers_generate.py")]
                engines["transformers"] = await stack.enter_async_context(
                    worker([*program, str(self._model_dir)], self._log_dir / "transformers.log")
                )
            for engine in engines.values():
                await engine.wait_ready(_START_TIMEOUT_S)
            driver = await stack.enter_async_context(executor(self._model_dir))
            found = await self._offline_rounds(driver, engines)
        versions = {name: engine.ready["version"] for name, engine in engines.items()}
        return {"versions": versions, "tokens_per_s": found}

    def _vllm(self, python: Path) -> Any:
        options = json.dumps({"max_model_len": 4096, "max_num_seqs": max(DECODE_ROWS)})
        program = [str(python), str(_PEERS / "vllm_offline.py"), str(self._model_dir), options]
        return worker(program, self._log_dir / "vllm-offline.log", _VLLM_ENVIRONMENT)

    async def _offline_rounds(self, driver: ExecutorDriver, engines: dict[str, Worker]) -> dict[str, Any]:
        found: dict[str, dict[str, list[float]]] = {}
        names = [str(rows) for rows in DECODE_ROWS] + [PREFILL]
        for number in range(self._repeats + 1):
            for name in names:
                self._say(f"offline, {name if name == PREFILL else name + ' rows'}, round {number} of {self._repeats}")
                rates = await self._offline_case(name, driver, engines, is_first=number == 0)
                # The first round warms everything up: compilers, allocators, caches of shapes.
                for engine, rate in rates.items() if number else ():
                    found.setdefault(name, {}).setdefault(engine, []).append(rate)
        return {
            name: {engine: round(median(rates)) for engine, rates in engines.items()} for name, engines in found.items()
        }

    async def _offline_case(
        self, name: str, driver: ExecutorDriver, engines: dict[str, Worker], *, is_first: bool
    ) -> dict[str, float]:
        def fresh() -> Case:
            return prefill_case(self._rng) if name == PREFILL else decode_case(self._rng, int(name))

        case = fresh()
        tokens = sum(map(len, case.prompts)) if name == PREFILL else sum(case.outputs)
        rates = {"bough": tokens / (await driver.run(case)).seconds}
        for engine, peer in engines.items():
            # transformers takes minutes for 256 rows and 16 long prompts; the issue compares it at 64.
            if engine == "transformers" and name != "64":
                continue
            if is_first and engine == "transformers":
                continue
            case = fresh()
            answer = await peer.ask(
                {"prompts": case.prompts, "output_tokens": case.outputs, "temperature": case.temperature}
            )
            rates[engine] = tokens / answer["seconds"]
        return rates

    async def _rest(self) -> dict[str, Any]:
        measurement = RestMeasurement(
            self._model_dir, first_port=self._first_port, repeats=self._repeats, log_dir=self._log_dir, say=self._say
        )
        return await measurement.run(self._vllm_server if self._peers.vllm is not None else None)

    @asynccontextmanager
    async def _vllm_server(self) -> AsyncIterator[RunningServer]:
        port = self._first_port + 9
        command = [str(self._peers.vllm), "-m", "vllm.entrypoints.openai.api_server", "--model", str(self._model_dir)]
        command += ["--served-model-name", "bench", "--dtype", "bfloat16", "--max-model-len", "4096"]
        command += ["--host", "127.0.0.1", "--port", str(port)]
        async with ready_server(
            command, "/health", port, self._log_dir / "vllm-server.log", _VLLM_ENVIRONMENT
        ) as running:
            yield running
