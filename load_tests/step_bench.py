"""Times the model alone, without services: decode steps by number of rows, and prefill.

`python -m load_tests.step_bench MODEL_DIR --rows 1,16,64,256` prints milliseconds per forward pass (median) and what
that makes in tokens per second. Rows have `--context` tokens; prefill is `--prompts` prompts of `--length` tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import replace
from pathlib import Path

import torch

from bough.executor.batch import ForwardBatch
from bough.executor.runner import ModelRunner, RunnerConfig


def decode_batch(rows: int, context: int, page_size: int) -> ForwardBatch:
    """A step in which every row computes its last token over `context` tokens, each row with pages of its own."""
    num_pages = -(-context // page_size)
    table = torch.arange(rows * num_pages, dtype=torch.int32).view(rows, num_pages)
    last = context - 1
    return ForwardBatch(
        tokens=torch.randint(0, 1000, (rows,)),
        positions=torch.full((rows,), last),
        slots=table[:, -1].long() * page_size + last % page_size,
        query_start=torch.arange(rows + 1, dtype=torch.int32),
        context_lens=torch.full((rows,), context, dtype=torch.int32),
        page_table=table,
        num_decode_rows=rows,
        logit_rows=torch.arange(rows),
    )


def prefill_batch(length: int, start: int, page_size: int) -> ForwardBatch:
    """One row that computes `length` tokens after `start` cached ones."""
    num_pages = -(-(start + length) // page_size)
    positions = torch.arange(start, start + length)
    return ForwardBatch(
        tokens=torch.randint(0, 1000, (length,)),
        positions=positions,
        slots=positions,
        query_start=torch.tensor([0, length], dtype=torch.int32),
        context_lens=torch.tensor([start + length], dtype=torch.int32),
        page_table=torch.arange(num_pages, dtype=torch.int32).unsqueeze(0),
        num_decode_rows=0,
        logit_rows=torch.tensor([length - 1]),
    )


def fill(runner: ModelRunner, rows: int, context: int) -> None:
    """Write the pages that `decode_batch` reads: memory never written is one page of zeros, and fast beyond measure."""
    num_pages = -(-context // runner.page_size)
    for row in range(rows):
        whole = prefill_batch(context, 0, runner.page_size)
        first = row * num_pages
        runner.forward(
            replace(whole, slots=whole.slots + first * runner.page_size, page_table=whole.page_table + first)
        )


def median_s(runner: ModelRunner, batch: ForwardBatch, seconds: float) -> float:
    """Median time of a forward pass over `seconds` of repetitions (at least three)."""
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        begin = time.perf_counter()
        runner.forward(batch)
        times.append(time.perf_counter() - begin)
    return statistics.median(times)


def main() -> None:
    """Parse arguments, run, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model_dir", type=Path)
    parser.add_argument("--rows", default="1,16,64,256")
    parser.add_argument("--context", type=int, default=192)
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--backend", choices=("auto", "native", "torch"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--seconds", type=float, default=1.0)
    arguments = parser.parse_args()
    begin = time.perf_counter()
    runner = ModelRunner.load(
        RunnerConfig(model_dir=arguments.model_dir, backend=arguments.backend, dtype=arguments.dtype)
    )
    print(f"backend {runner.backend}, {runner.layout.dtype}, ready in {time.perf_counter() - begin:.2f} s")
    sizes = [int(rows) for rows in arguments.rows.split(",")]
    fill(runner, max(sizes), arguments.context)
    for rows in sizes:
        elapsed = median_s(runner, decode_batch(rows, arguments.context, runner.page_size), arguments.seconds)
        print(
            f"decode {rows:4d} rows, context {arguments.context}: {elapsed * 1e3:7.3f} ms {rows / elapsed:9.0f} tok/s"
        )
    elapsed = median_s(runner, prefill_batch(arguments.length, 0, runner.page_size), arguments.seconds)
    print(f"prefill {arguments.length} tokens: {elapsed * 1e3:7.1f} ms {arguments.length / elapsed:9.0f} tok/s")


if __name__ == "__main__":
    main()
