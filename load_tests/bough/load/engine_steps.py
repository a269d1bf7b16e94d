"""Steps of an engine in this process, without any service around it: where the time of a decode step goes.

`python -m bough.load.engine_steps MODEL_DIR` prints, for each number of rows, milliseconds a step, how many of them the
host is busy, and the floor; `--trace FILE` has the GPU's own account of some steps, `--beside TOKENS` the steps of rows
that decode while a prompt of so many tokens is computed beside them, `--prefill TOKENS` the rate of such prompts alone.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from bough.common.config import Settings
from bough.common.model import read_model_files
from bough.common.sampling import SamplingParams
from bough.common.telemetry import Telemetry
from bough.executor.engine import Engine
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Orders, StepReport
from bough.executor.service import build_engine
from bough.load.floors import ModelSize

PROMPT, OUTPUT = 128, 260
PREFILL_PROMPTS = 32


class EngineRun:
    """Gives an engine requests and steps it."""

    def __init__(self, engine: Engine, vocab_size: int) -> None:
        self._engine = engine
        self._vocab_size = vocab_size
        self._request = 0

    def admit(self, num_rows: int, num_tokens: int, prompt_tokens: int = PROMPT) -> None:
        """Requests with prompts that share nothing."""
        first = self._request + 1
        self._request += num_rows
        sampling = SamplingParams(temperature=1.0, ignore_eos=True, max_tokens=num_tokens)
        self._engine.apply(
            Orders(
                admissions=[
                    Admission(
                        request=request,
                        prompt=[
                            (request * 7919 + place * 31) % (self._vocab_size - 10) + 3
                            for place in range(prompt_tokens)
                        ],
                        produced=(),
                        sampling=replace(sampling, seed=request),
                        cache_namespace=b"",
                        order=request,
                        traceparent="",
                    )
                    for request in range(first, first + num_rows)
                ]
            )
        )

    def run(self) -> float:
        """Seconds until all have ended."""
        began = time.perf_counter()
        while self._step() is not None or self._engine.is_under_way:
            pass
        return time.perf_counter() - began

    def prefill_rate(self, num_prompts: int, prompt_tokens: int) -> float:
        """Tokens a second of prompts alone."""
        self.admit(num_prompts, 1, prompt_tokens)
        return num_prompts * prompt_tokens / self.run()

    def steps_beside(self, num_rows: int, prompt_tokens: int) -> tuple[list[float], list[float]]:
        """Milliseconds of the steps of so many rows alone, and of those until a prompt beside them has its token."""
        self.admit(num_rows, OUTPUT)
        for _ in range(OUTPUT // 4):
            self._step()
        left = iter(range(OUTPUT // 4))
        alone = self._step_times(lambda _: next(left, None) is None)
        self.admit(1, 1, prompt_tokens)
        prompt = self._request
        beside = self._step_times(lambda requests: prompt in requests)
        self.run()
        return alone, beside

    def _step_times(self, is_last: Callable[[list[int]], bool]) -> list[float]:
        """Milliseconds between reports with tokens, up to the one whose requests make `is_last` true."""
        times: list[float] = []
        before = time.perf_counter()
        while True:
            report = self._step()
            if report is None or not report.tokens.requests:
                continue
            now = time.perf_counter()
            times.append((now - before) * 1e3)
            before = now
            if is_last(report.tokens.requests):
                return times

    def _step(self) -> StepReport | None:
        report = self._engine.step()
        if report is not None and report.failures:
            raise RuntimeError(f"a request failed: {report.failures[0].message}")
        return report

    def decode_step_ms(self, num_rows: int) -> tuple[float, float]:
        """Milliseconds of a decode step at this many rows, and of them how many the host computed."""
        self.admit(num_rows, 4)
        short_s = self.run()
        self.admit(num_rows, OUTPUT)
        cpu = time.thread_time()
        long_s = self.run()
        cpu = time.thread_time() - cpu
        return (long_s - short_s) / (OUTPUT - 4) * 1e3, cpu / OUTPUT * 1e3


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bough.load.engine_steps", description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--rows", default="1,8,64,256")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--load-format", default="auto")
    parser.add_argument("--prefill", type=int, metavar="TOKENS")
    parser.add_argument("--beside", type=int, metavar="TOKENS")
    parser.add_argument("--mixed-token-budget", type=int)
    parser.add_argument("--max-rows", type=int, help="fewer have fewer graphs, and so less to compile")
    parser.add_argument("--token-budget", type=int)
    parser.add_argument("--compile", default="off", help="the setting of this name; prints how long it takes")
    parser.add_argument("--attention-prefill", default="auto", help="the setting of this name")
    parser.add_argument("--trace", type=Path)
    options = parser.parse_args(arguments)
    rows = [int(text) for text in options.rows.split(",")]
    settings = Settings(
        model=options.model_dir,
        load_format=options.load_format,
        mixed_token_budget=options.mixed_token_budget,
        max_rows=options.max_rows,
        token_budget=options.token_budget,
        compile=options.compile,
        attention_prefill=options.attention_prefill,
    )
    if settings.compile != "off":
        logging.basicConfig(format="%(message)s")
        logging.getLogger("bough").setLevel(logging.INFO)
    began = time.perf_counter()
    files = read_model_files(options.model_dir, served_name=None, max_context=None)
    engine = build_engine(settings, files, Observer(Telemetry("executor")))
    print(f"ready in {time.perf_counter() - began:.1f} s, {engine.capacity}")
    run = EngineRun(engine, files.identity.vocab_size)
    run.decode_step_ms(min(rows))
    size = ModelSize.read(options.model_dir)
    print(f"{'rows':>5} {'ms/step':>8} {'host ms':>8} {'floor':>7} {'x floor':>7}")
    for num_rows in rows:
        measured = sorted(run.decode_step_ms(num_rows) for _ in range(options.repeat))
        step_ms, host_ms = measured[len(measured) // 2]
        floor_ms = size.decode_step_s(num_rows, num_rows * (PROMPT + OUTPUT // 2)) * 1e3
        print(f"{num_rows:5} {step_ms:8.3f} {host_ms:8.3f} {floor_ms:7.2f} {step_ms / floor_ms:7.2f}", flush=True)
    if options.prefill:
        rates = sorted(run.prefill_rate(PREFILL_PROMPTS, options.prefill) for _ in range(options.repeat))
        print(f"{PREFILL_PROMPTS} prompts of {options.prefill}: {rates[len(rates) // 2]:,.0f} tokens/s", flush=True)
    if options.beside:
        for num_rows in rows:
            _print_beside(run, num_rows, options.beside)
    if options.trace is not None:
        _trace(run, rows, options.trace)


def _print_beside(run: EngineRun, num_rows: int, prompt_tokens: int) -> None:
    run.steps_beside(num_rows, prompt_tokens)
    alone, beside = run.steps_beside(num_rows, prompt_tokens)
    usual = statistics.median(alone)
    slowest = statistics.quantiles(beside, n=20)[-1] if len(beside) > 1 else beside[0]
    print(
        f"{num_rows} rows beside a prompt of {prompt_tokens}: {usual:.2f} ms a step alone, then {len(beside)} steps of "
        f"{statistics.median(beside):.2f} (p95 {slowest:.2f}, x {slowest / usual:.2f}), {sum(beside):.1f} ms in all",
        flush=True,
    )


def _trace(run: EngineRun, rows: list[int], path: Path) -> None:
    """Profile a run at each number of rows; prints the share of time in which the GPU was busy, and its kernels."""
    import torch

    for num_rows in rows:
        run.admit(num_rows, 48)
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            run.run()
        spans = sorted(
            (event.time_range.start, event.time_range.end, event.name)
            for event in profile.events()
            if "CUDA" in str(event.device_type)
        )
        _summarize(num_rows, spans, path)


def _summarize(num_rows: int, spans: list[tuple[float, float, str]], path: Path) -> None:
    spans = spans[len(spans) // 3 :]  # what comes before is the prefill
    busy, end = 0.0, spans[0][0]
    by_name: dict[str, list[float]] = {}
    for start, stop, name in spans:
        busy += max(0.0, stop - max(start, end))
        end = max(end, stop)
        by_name.setdefault(name, []).append(stop - start)
    total = end - spans[0][0]
    lines = [f"{num_rows} rows: GPU busy {busy / total:.1%} of {total / 1e3:.1f} ms, {len(spans)} kernels"]
    most: list[tuple[str, list[Any]]] = sorted(by_name.items(), key=lambda item: -sum(item[1]))[:25]
    lines += [f"  {sum(t) / 1e3:9.2f} ms {len(t):6} x {sum(t) / len(t):8.2f} us  {name[:110]}" for name, t in most]
    print("\n".join(lines))
    with path.open("a") as file:
        file.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
