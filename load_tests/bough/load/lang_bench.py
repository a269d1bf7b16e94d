"""What programs gain by the language: `bough bench lang`, on a server started for it.

Each program of `lang_programs` runs in our language over gRPC, and as written by hand over OpenAI's API on the same
server (and on vLLM's, where it is there), on tasks of the same lengths, so many at a time. Beside the rates: prompt
tokens that the executor has computed for a program, and the least possible; and the memory of a client process with
1,000 states.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from bough.lang import Backend
from bough.lang.backends.base import Message
from bough.lang.backends.bough import Bough
from bough.load import machine
from bough.load.bough_server import LAUNCHER, RunningServer, bough_server, cpu_between
from bough.load.children import PeerFailed, own_path
from bough.load.gpu_peers import PEERS, has_weights
from bough.load.http_client import Target, exchange
from bough.load.lang_floor import Watched
from bough.load.lang_plain import BY_HAND, Api
from bough.load.lang_programs import CASES, Case, Sizes, Task, tasks
from bough.load.results import markdown
from bough.load.served import CannotRun, only_model

SERVED = "bench"
PROGRAMS, HAND, PEER = "language", "by hand", "vllm"
CLIENT = "client"

SMALL = Sizes(context=100, turn=10, turns=2, branches=3, tree_branches=2, depth=2, tokens=4)
"""What a CPU does in seconds."""

_COMPUTED = re.compile(r"^bough_prefill_tokens_total(?:\{.*\})? (\S+)$", re.MULTILINE)

Say = Callable[[str], None]
Run = Callable[[Task], Awaitable[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class LangOptions:
    """What is measured, and how much of it."""

    model_dir: Path
    peers_dir: Path | None = None
    peer_url: str | None = None
    """Another server with OpenAI's API and vLLM's names beyond it."""
    repeats: int = 3
    concurrency: int = 16
    programs: int = 48
    """Of a round."""
    sizes: Sizes = field(default_factory=Sizes)
    cases: Sequence[Case] = CASES
    states: int = 1000
    """At the same time, where memory is measured."""
    port: int = 8200
    log_dir: Path = Path(".bench")
    serve_flags: tuple[str, ...] = ()


@dataclass(slots=True)
class _Way:
    """A way to run a program, and what its rounds were like."""

    run: Run
    rates: list[float] = field(default_factory=list)
    cpu_s: Counter[str] = field(default_factory=Counter)
    computed: float = 0.0


class LangBench:
    """All measurements of a run.

    Args:
        options: What is measured.
        say: Told what is being measured.
    """

    def __init__(self, options: LangOptions, say: Say) -> None:
        self._options = options
        self._say = say

    async def run(self) -> dict[str, Any]:
        """Our server, then the other one."""
        self._options.log_dir.mkdir(parents=True, exist_ok=True)
        cases: dict[str, dict[str, Any]] = {case.name: {} for case in self._options.cases}
        found: dict[str, Any] = {"cases": cases}
        async with self._our_server() as running:
            target = running.target
            found["states"] = await self._memory(target)
            async with Api(_url(target), SERVED, is_ours=True) as api:
                for case in self._options.cases:
                    cases[case.name] |= await self._ours(case, running, api)
        if (peer := self._peer_server()) is not None:
            async with peer as running:
                await self._peer(running.target, SERVED, cases)
        elif self._options.peer_url is not None:
            target = Target.parse(self._options.peer_url)
            await self._peer(target, await only_model(target), cases)
        return found

    def _our_server(self) -> AbstractAsyncContextManager[RunningServer]:
        options = self._options
        flags = ["--served-model-name", SERVED, "--log-level", "warning", *options.serve_flags]
        if not has_weights(options.model_dir):
            flags += ["--load-format", "dummy"]
        return bough_server(options.model_dir, options.port, options.log_dir / "lang.log", *flags)

    def _peer_server(self) -> AbstractAsyncContextManager[RunningServer] | None:
        options = self._options
        site = None if options.peers_dir is None else options.peers_dir / PEER / "site"
        if site is None or not site.is_dir():
            return None
        return PEERS[PEER].serving(options.model_dir, site, options.port, options.log_dir / "lang-vllm.log")

    async def _ours(self, case: Case, running: RunningServer, api: Api) -> dict[str, Any]:
        ways = {
            PROGRAMS: _Way(functools.partial(_in_language, case, Bough(_url(running.target)))),
            HAND: _Way(functools.partial(BY_HAND[case.name], api)),
        }
        for number in range(self._options.repeats + 1):
            # Each way is the first one in every second round: what the machine does meanwhile, it does to both.
            for name in list(ways)[:: 1 if number % 2 else -1]:
                await self._measured(ways[name], running, f"{case.name} {number} {name}", is_warm=number > 0)
            if number:
                told = ", ".join(f"{name} {way.rates[-1]:.2f} programs/s" for name, way in ways.items())
                self._say(f"{case.name}, round {number}: {told}")
        counted = await self._counted(case, running.target, api)
        measured = self._options.repeats * self._options.programs
        return {
            "is_fork_heavy": case.is_fork_heavy,
            "programs_per_s": {name: median(way.rates) for name, way in ways.items()},
            "ratio": median(one / other for one, other in zip(ways[PROGRAMS].rates, ways[HAND].rates, strict=True)),
            "cpu_ms": {
                name: {part: 1e3 * cpu_s / measured for part, cpu_s in way.cpu_s.items()} for name, way in ways.items()
            },
            "computed_by_hand": ways[HAND].computed / measured,
            **counted,
        }

    async def _measured(self, way: _Way, running: RunningServer, seed: str, *, is_warm: bool) -> None:
        computed, usage, own_s = await _computed(running.target), running.usage(), machine.own_cpu_s()
        rate = await self._round(way.run, seed)
        if is_warm:
            way.rates.append(rate)
            way.cpu_s.update({**cpu_between(usage, running.usage()), CLIENT: machine.own_cpu_s() - own_s})
            way.computed += await _computed(running.target) - computed

    async def _counted(self, case: Case, target: Target, api: Api) -> dict[str, Any]:
        """What a round has the executor compute, and the least possible; apart, since counting takes time."""
        encoder = _Encoder(api)
        watched = Watched(Bough(_url(target)), encoder.text, encoder.chat)
        before = await _computed(target)
        await self._round(functools.partial(_in_language, case, watched), f"{case.name} counted")
        computed = await _computed(target) - before
        others = watched.num_other_lengths
        self._say(f"{case.name}: {watched.num_generations} generations, {others} of another length than counted here")
        count = self._options.programs
        return {
            "computed": computed / count,
            "least": watched.trie.least / count,
            "num_other_lengths": watched.num_other_lengths,
        }

    async def _peer(self, target: Target, model: str, cases: dict[str, dict[str, Any]]) -> None:
        async with Api(_url(target), model, is_ours=False) as api:
            for case in self._options.cases:
                by_hand = functools.partial(BY_HAND[case.name], api)
                numbers = range(self._options.repeats + 1)
                rates = [await self._round(by_hand, f"{case.name} {number}") for number in numbers]
                self._say(f"{case.name}, {PEER}: {rates}")
                cases[case.name]["programs_per_s"][PEER] = median(rates[1:])

    async def _round(self, run: Run, seed: str) -> float:
        """Programs a second."""
        options = self._options
        left = iter(tasks(options.sizes, seed, options.programs))

        async def work() -> None:
            for task in left:
                await run(task)

        began = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for _ in range(min(options.concurrency, options.programs)):
                group.create_task(work())
        return options.programs / (time.perf_counter() - began)

    async def _memory(self, target: Target) -> dict[str, float]:
        """Of a process of its own, since this one holds more than a client does."""
        command = [sys.executable, "-P", "-m", "bough.load.lang_states", _url(target), str(self._options.states)]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, env={**os.environ, **own_path()}
        )
        try:
            output, errors = await process.communicate()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise PeerFailed(f"the client with {self._options.states} states failed: {errors.decode()[-2000:]}")
        values: dict[str, float] = json.loads(output)
        return values


class _Encoder:
    """Texts and chats to ids, by the server that the programs run on."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._known: dict[str, list[int]] = {}

    async def text(self, text: str) -> list[int]:
        """A text by itself."""
        if text not in self._known:
            self._known[text] = await self._ids({"prompt": text, "add_special_tokens": False})
        return self._known[text]

    async def chat(self, messages: Sequence[Message], opens_turn: bool, goes_on: bool) -> list[int]:
        """A chat."""
        turns = [{"role": message.role, "content": message.content} for message in messages]
        return await self._ids(
            {"messages": turns, "add_generation_prompt": opens_turn, "continue_final_message": goes_on}
        )

    async def _ids(self, body: Mapping[str, Any]) -> list[int]:
        response = await self._api.client.post("/v1/tokenize", json=body)
        if response.status_code != 200:
            raise CannotRun(f"/v1/tokenize: {response.status_code} {response.text[:500]}")
        ids: list[int] = response.json()["tokens"]
        return ids


async def _in_language(case: Case, backend: Backend, task: Task) -> str:
    return (await case.program.arun(task, backend=backend, temperature=0.0, ignore_eos=True)).value


async def _computed(target: Target) -> float:
    """Prompt tokens that executors have computed."""
    answer = await exchange(target, target.get("/metrics"), timeout_s=10.0)
    return sum(float(value) for value in _COMPUTED.findall(answer.body.decode()))


def _url(target: Target) -> str:
    return f"http://{target.host}:{target.port}{target.prefix}"


def report(measured: Mapping[str, Any]) -> str:
    """The table, and the memory of a client."""
    cases: Mapping[str, Mapping[str, Any]] = measured["cases"]
    has_peer = any(PEER in case["programs_per_s"] for case in cases.values())
    header = ["programs/s", "language", "by hand", "ratio", "goal"]
    header += ["vLLM by hand", "ratio"] if has_peer else []
    header += ["prompt tokens computed", "least", "more, %", "by hand"]
    rows = []
    for name, case in cases.items():
        rates = case["programs_per_s"]
        row = [name, f"{rates[PROGRAMS]:.2f}", f"{rates[HAND]:.2f}", f"{case['ratio']:.2f}"]
        row.append("1.7" if case["is_fork_heavy"] else "1.0")
        if has_peer:
            row += [f"{rates[PEER]:.2f}", f"{rates[PROGRAMS] / rates[PEER]:.2f}"]
        if case["computed"]:
            more = 100 * (case["computed"] / case["least"] - 1)
            row += [
                f"{case['computed']:,.0f}",
                f"{case['least']:,.0f}",
                f"{more:.1f}",
                f"{case['computed_by_hand']:,.0f}",
            ]
        else:
            # An executor that computes nothing.
            row += ["", f"{case['least']:,.0f}", "", ""]
        rows.append(row)
    states = measured["states"]
    return (
        markdown(header, rows)
        + "\n\n"
        + _cpu(cases)
        + f"\n\nclient process with {states['states']:.0f} states at once: {states['peak_mb']:.0f} MB at most, "
        + f"{states['before_mb']:.0f} MB before the first one"
    )


def _cpu(cases: Mapping[str, Mapping[str, Any]]) -> str:
    """Where the CPU goes, of our server and the client: what a rate depends on where the machine has other work."""
    parts = [part for part in next(iter(cases.values()))["cpu_ms"][PROGRAMS] if part != LAUNCHER]
    rows = []
    for name, case in cases.items():
        for way in (PROGRAMS, HAND):
            used = case["cpu_ms"][way]
            rows.append([f"{name}, {way}", *(f"{used[part]:.1f}" for part in parts), f"{sum(used.values()):.1f}"])
    return markdown(["CPU, ms a program", *parts, "all"], rows)
