"""What `bough bench` runs: one load, one part alone, or the whole comparison; with a progress bar and results."""

from __future__ import annotations

import argparse
import asyncio
import functools
import random
import shlex
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import uvloop
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bough.load import ceiling, gpu_bench, gpu_report, grammar_bench, lang_bench, machine, results
from bough.load.cases import decode_case, median, prefill_case
from bough.load.client_processes import processes_for
from bough.load.comparison import DECODE_ROWS, Comparison, Peers
from bough.load.executor_driver import Case, executor
from bough.load.generator import Generator, Plan
from bough.load.http_client import Target
from bough.load.scenarios import SCENARIOS, Arrivals, Options
from bough.load.served import CannotRun, only_model

_REFRESH_S = 0.25


def run(options: argparse.Namespace) -> int:
    """Run what the options of `bough bench` say; returns the exit status, 1 when a request failed."""
    measured = uvloop.run(_ended_in_order(_measurement(options)))
    parameters = {name: value for name, value in vars(options).items() if value is not None and name != "api_key"}
    result = results.document(options.what, {name: str(value) for name, value in parameters.items()}, measured)
    if options.json is not None:
        results.write(options.json, result)
    if options.what in SCENARIOS:
        print(results.load_table(measured))
    elif options.what == "all":
        print(results.report(result))
    elif options.what == "grammar":
        print(grammar_bench.report(measured))
    elif options.what == "lang":
        print(lang_bench.report(measured))
    elif options.what in ("offline", "http", "gpu"):
        print(gpu_report.report(result))
    else:
        for name, value in measured.items():
            print(f"{name}: {value}")
    return 1 if measured.get("errors") else 0


async def _ended_in_order(measuring: Coroutine[Any, Any, dict[str, Any]]) -> dict[str, Any]:
    """What is measured. SIGTERM ends it as Ctrl-C does, and with it the servers that were started for it.

    Raises:
        KeyboardInterrupt: it was ended.
    """
    task = asyncio.ensure_future(measuring)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


def _on_gpu(options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    plan = gpu_bench.GpuOptions(
        models=_names(options.models, None, "--models"),
        engines=_names(options.engines, gpu_bench.ENGINES, "--engines"),
        parts=_names(options.parts, gpu_bench.PARTS, "--parts"),
        small=options.small,
        repeats=options.repeats,
        first_port=options.port,
        clients=options.clients or processes_for(),
        log_dir=options.log_dir,
        peers_dir=options.peers_dir,
        executor_flags=shlex.split(options.executor_flags),
        serve_flags=shlex.split(options.serve_flags),
    )
    if options.what == "offline":
        return gpu_bench.offline(options.model_dir, plan, options.executor_address, _say)
    if options.what == "http":
        return gpu_bench.http(Target.parse(options.base_url, options.api_key), options.model_dir, plan, _say)

    def save(found: dict[str, Any]) -> None:
        if options.json is not None:
            results.write(options.json, results.document(options.what, {"repeats": options.repeats}, found))

    return gpu_bench.GpuBench(plan, _say, save, _known(options)).run()


def _known(options: argparse.Namespace) -> dict[str, Any] | None:
    """What `--add` adds to: the numbers in the file, which must be those of this commit."""
    if not options.add:
        return None
    if options.json is None:
        raise CannotRun("--add needs --json FILE, the file that is added to")
    if not options.json.is_file():
        return None
    try:
        before = results.read(options.json)
    except ValueError as error:
        raise CannotRun(f"--add: {options.json}: {error}") from None
    if before["commit"] != machine.commit():
        raise CannotRun(f"--add: {options.json} was measured at {before['commit']}, and this is {machine.commit()}")
    measured: dict[str, Any] = before["measured"]
    return {**measured, "errors": {}}


def _grammar(options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    plan = grammar_bench.GrammarOptions(
        model_dir=options.model_dir,
        peers_dir=options.peers_dir,
        repeats=options.repeats,
        port=options.port,
        log_dir=options.log_dir,
        serve_flags=tuple(shlex.split(options.serve_flags)),
    )
    if options.small:
        plan = replace(plan, requests=64, firsts=10, schemas=40, schemas_per_s=10.0)
    return grammar_bench.GrammarBench(plan, _say).run()


def _lang(options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    plan = lang_bench.LangOptions(
        model_dir=options.model_dir,
        peers_dir=options.peers_dir,
        peer_url=options.peer_url,
        repeats=options.repeats,
        port=options.port,
        log_dir=options.log_dir,
        serve_flags=tuple(shlex.split(options.serve_flags)),
    )
    if options.small:
        plan = replace(plan, concurrency=4, programs=4, states=100, sizes=lang_bench.SMALL)
    if options.concurrency is not None:
        plan = replace(plan, concurrency=options.concurrency)
    if options.requests is not None:
        plan = replace(plan, programs=options.requests)
    return lang_bench.LangBench(plan, _say).run()


def _names(text: str, known: Sequence[str] | None, flag: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if known is not None and name not in known]
    if unknown or not names:
        raise CannotRun(f"{flag} {text!r}: some of {', '.join(known or ())} are accepted, with commas between them")
    return names


def _measurement(options: argparse.Namespace) -> Coroutine[Any, Any, dict[str, Any]]:
    if options.what in SCENARIOS:
        return _load(options)
    if options.what == "executor":
        return _executor(options)
    if options.what == "generator":
        return ceiling.measure()
    if options.what in ("offline", "http", "gpu"):
        return _on_gpu(options)
    if options.what == "grammar":
        return _grammar(options)
    if options.what == "lang":
        return _lang(options)
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
    model = options.model or await only_model(target)
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
