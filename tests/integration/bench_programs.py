"""What programs cost all that is not the model: the benchmark of programs on an executor that computes nothing.

    python -m tests.integration.bench_programs [PROGRAMS] [AT_ONCE] [STEPS_PER_SECOND] [ARGUMENTS OF bough serve …]

A fake executor gives every running request one token a step, whatever its prompt is, at most so many steps a second;
everything else is real. It knows neither choices nor schemas, so programs with these are left out. Prints the tables of
`bough bench lang`, without what an executor computes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import uvloop

from bough.demo import model_dir
from bough.load.lang_bench import LangBench, LangOptions, report
from bough.load.lang_programs import CASES
from tests.integration.paced_executor import paced_executor

CANNOT = ("few-shot select", "JSON")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main() -> None:
    programs, at_once, steps_per_s = (int(a) for a in [*sys.argv[1:4], "48", "16", "200"][:3])
    with paced_executor(steps_per_s) as address, tempfile.TemporaryDirectory(prefix="programs-") as folder:
        options = LangOptions(
            model_dir=model_dir(),
            concurrency=at_once,
            programs=programs,
            cases=[case for case in CASES if case.name not in CANNOT],
            log_dir=Path(folder),
            serve_flags=("--executor-address", address, *sys.argv[4:]),
        )
        measured = uvloop.run(LangBench(options, _say).run())
    sys.stdout.write(f"{report(measured)}\n")


if __name__ == "__main__":
    main()
