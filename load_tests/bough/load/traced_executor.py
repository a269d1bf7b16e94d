"""An executor that also notes when each step ended: `PYTHON -m bough.load.traced_executor MODEL_DIR RUN_DIR FILE`.

The service is the real one; only `Engine.step` is wrapped, which costs a microsecond a step. The file has a line for
each step that produced tokens, "nanoseconds of the machine's monotonic clock, tokens", and is complete once the process
ended.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TextIO

from bough.common.config import Settings
from bough.common.service import run_service
from bough.common.telemetry import setup_logging
from bough.executor import service
from bough.executor.engine import Engine
from bough.executor.orders import StepReport


def note_steps(file: TextIO) -> None:
    """Have every engine of this process write when its steps ended."""
    step = Engine.step

    def noted(engine: Engine) -> StepReport | None:
        report = step(engine)
        if report is not None and report.tokens.tokens:
            file.write(f"{time.monotonic_ns()} {len(report.tokens.tokens)}\n")
        return report

    Engine.step = noted  # type: ignore[method-assign,assignment]


def main() -> None:
    """Run until a signal."""
    model_dir, run_dir, path = map(Path, sys.argv[1:])
    setup_logging("executor", level="warning", json_format=False)
    settings = Settings(model=model_dir, run_dir=run_dir)
    with path.open("w") as file:
        note_steps(file)
        run_service("executor", _LateService(settings), drain_timeout_s=1.0)


class _LateService:
    """Made within the event loop, where its gRPC objects belong."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    async def start(self) -> None:
        self._service = service.create(self._settings)
        await self._service.start()

    async def drain(self, timeout_s: float) -> None:
        await self._service.drain(timeout_s)

    async def stop(self) -> None:
        await self._service.stop()


if __name__ == "__main__":
    main()
