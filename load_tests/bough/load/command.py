"""What `bough bench` runs: one load, one part alone, or the whole comparison; with a progress bar and results."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import random
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bough.load import ceiling, results
from bough.load.cases import decode_case, median, prefill_case
from bough.load.comparison import DECODE_ROWS, Comparison, Peers
from bough.load.executor_driver import Case, executor
from bough.load.generator import Generator, Plan
from bough.load.http_client import Target, exchange
from bough.load.scenarios import SCENARIOS, Arrivals, Options

_REFRESH_S = 0.25


class CannotRun(Exception):
    """The options do not go together, or no server answers; the text is for the user."""


def run(options: argparse.Namespace) -> int:
    """Run what the options of `bough bench` say; returns the exit status, 1 when a request failed."""
    measured = uvloop.run(_measurement(options))
    parameters = {name: value for name, value in vars(options).items() if value is not None and name != "api_key"}
    result = results.document(options.what, {name: str(value) for name, value in parameters.items()}, measured)
    if options.json is not None:
        results.write(options.json, result)
    if options.what in SCENARIOS:
        print(results.load_table(measured))
    elif options.what == "all":
        print(results.report(result))
    else:
        for name, value in measured.items():
            print(f"{name}: {value}")
    return 1 if measured.get("errors") else 0


def _measurement(options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    if options.what in SCENARIOS:
        return _load(options)
    if options.what == "executor":
        return _executor(options)
    if options.what == "generator":
        return ceiling.measure()
    peers = Peers(vllm=options.peer_vllm, transformers=options.peer_transformers)
    comparison = Comparison(
        options.model_dir,
        peers,
        first_port=options.port,
        repeats=options.repeats,
        log_dir=options.log_dir,
        say=_say,
    )
    return comparison.run()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


async def _load(options: argparse.Namespace) -> dict[str, Any]:
    scenario = SCENARIOS[options.what]
    target = Target.parse(options.base_url, options.api_key)
    model = options.model or await _only_model(target)
    source = scenario.requests(
        Options(
            model=model,
            stream=not options.no_stream,
            temperature=options.temperature,
            ignore_eos=options.ignore_eos,
            prompt_tokens=options.prompt_tokens,
            output_tokens=options.output_tokens,
            seed=options.seed,
        )
    )
    generator = Generator(target, source, _plan(options))
    return await _with_progress(generator, options.what)


def _plan(options: argparse.Namespace) -> Plan:
    scenario = SCENARIOS[options.what]
    arrivals = scenario.arrivals
    if options.concurrency is not None and options.rate is not None:
        raise CannotRun("--concurrency is a closed loop and --rate an open one: give one of them")
    if options.concurrency is not None:
        arrivals = Arrivals(concurrency=options.concurrency)
    elif options.rate is not None:
        arrivals = Arrivals(rate_per_s=options.rate, burst=options.burst or arrivals.burst)
    elif options.burst is not None:
        if arrivals.rate_per_s is None:
            raise CannotRun(f"--burst needs --rate: {options.what} is a closed loop otherwise")
        arrivals = Arrivals(rate_per_s=arrivals.rate_per_s, burst=options.burst)
    given = options.requests is not None or options.duration is not None
    return Plan(
        arrivals=arrivals,
        num_requests=options.requests if given else scenario.num_requests,
        duration_s=options.duration if given else scenario.duration_s,
        seed=options.seed,
    )


async def _only_model(target: Target) -> str:
    answer = await exchange(target, target.get("/v1/models"), timeout_s=10.0)
    if answer.error is not None:
        raise CannotRun(f"no model list at {target.host}:{target.port} ({answer.error})")
    return str(json.loads(answer.body)["data"][0]["id"])


async def _with_progress(generator: Generator, title: str) -> dict[str, Any]:
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[state]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=1.0, state="")
        running = asyncio.create_task(generator.run())
        while not running.done():
            tally = generator.tally
            rate = tally.output_tokens / (generator.elapsed_s or 1.0)
            state = f"{tally.completed} done, {generator.under_way} under way, {rate:,.0f} tok/s"
            errors = sum(tally.errors.values())
            bar.update(task, completed=generator.progress, state=f"{state}, {errors} errors" if errors else state)
            await asyncio.wait({running}, timeout=_REFRESH_S)
        return running.result()


async def _executor(options: argparse.Namespace) -> dict[str, Any]:
    rng = random.Random(options.seed)
    cases: dict[str, Callable[[], Case]] = {
        f"{rows} rows, output tokens/s": functools.partial(decode_case, rng, rows) for rows in DECODE_ROWS
    }
    cases["prefill, prompt tokens/s"] = functools.partial(prefill_case, rng)
    found: dict[str, Any] = {}
    async with executor(options.model_dir) as driver:
        for name, make in cases.items():
            rates = [(await driver.run(make())).rate(of_prompts="prefill" in name) for _ in range(options.repeats + 1)]
            found[name] = round(median(rates[1:]))
    return found
