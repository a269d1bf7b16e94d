"""Drives an engine by hand and follows its reports as a scheduler would."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from bough.common.requests import RequestFailure
from bough.common.sampling import FinishReason, SamplingParams, TokenLogprobs
from bough.common.telemetry import Telemetry
from bough.executor.engine import Engine
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Gauges, Orders, StepReport
from bough.executor.pipeline.host import HostPipeline
from bough.executor.runner import ModelRunner, RunnerConfig
from bough.executor.running import Matcher


def load_runner(model_dir: Path, **fields: Any) -> ModelRunner:
    """A runner in float32 with a small pool."""
    config: dict[str, Any] = {"num_pages": 400, "max_rows": 40, "token_budget": 512, "num_threads": 1, **fields}
    return ModelRunner.load(RunnerConfig(model_dir=model_dir, dtype="float32", **config))


def make_engine(runner: ModelRunner, *, max_rows: int = 40, token_budget: int = 512, eos: Sequence[int] = ()) -> Engine:
    """A fresh engine, its cache empty."""
    observer = Observer(Telemetry("executor"))
    return Engine(
        runner,
        eos_token_ids=eos,
        max_rows=max_rows,
        token_budget=token_budget,
        observer=observer,
        make_pipeline=lambda table: HostPipeline(runner, table, eos_token_ids=eos),
    )


def make_gpu_engine(
    model_dir: Path, *, eos: Sequence[int] = (), dtype: Literal["float32", "bfloat16"] = "float32", **fields: Any
) -> Engine:
    """An engine on the GPU, its cache empty."""
    from bough.executor.gpu.pipeline import GpuPipeline
    from bough.executor.gpu.runner import GpuRunner

    config: dict[str, Any] = {"num_pages": 400, "max_rows": 40, "token_budget": 512, **fields}
    runner = GpuRunner.load(RunnerConfig(model_dir=model_dir, dtype=dtype, **config), torch.device("cuda", 0))
    return Engine(
        runner,
        eos_token_ids=eos,
        max_rows=config["max_rows"],
        token_budget=config["token_budget"],
        observer=Observer(Telemetry("executor")),
        make_pipeline=lambda table: GpuPipeline(runner, table, eos_token_ids=eos),
    )


def random_tokens(length: int, seed: int, vocab_size: int = 512) -> list[int]:
    """Tokens from 3 on."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab_size, (length,), generator=generator).tolist()


def admission(
    request: int,
    prompt: Sequence[int],
    *,
    produced: Sequence[int] = (),
    order: int | None = None,
    namespace: bytes = b"",
    matcher: Matcher | None = None,
    **sampling: Any,
) -> Admission:
    """An order to run a request; greedy unless `sampling` says otherwise."""
    return Admission(
        request=request,
        prompt=prompt,
        produced=produced,
        sampling=SamplingParams(**{"temperature": 0.0, "max_tokens": 8, **sampling}),
        cache_namespace=namespace,
        order=request if order is None else order,
        traceparent="",
        matcher=matcher,
    )


class EngineDriver:
    """An engine and what it has reported so far. Checks positions as reports come."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.tokens: dict[int, list[int]] = {}
        self.logprobs: dict[int, list[TokenLogprobs]] = {}
        self.finish: dict[int, FinishReason] = {}
        self.cached: dict[int, int] = {}
        self.failures: dict[int, RequestFailure] = {}
        self.retracted: list[int] = []
        self.pages: set[bytes] = set()
        self.gauges = engine.gauges()
        self.most_pages_used = 0
        self._first: dict[int, int] = {}
        self._number = 0

    def admit(self, *admissions: Admission) -> None:
        """Give requests to the engine."""
        self._first.update({entry.request: len(entry.produced) for entry in admissions})
        self.apply(Orders(admissions=list(admissions)))

    def cancel(self, *requests: int) -> None:
        """Take requests back."""
        self.apply(Orders(cancels=list(requests)))

    def apply(self, orders: Orders) -> None:
        """Give orders, numbered."""
        self._number += 1
        orders.number = self._number
        self.engine.apply(orders)

    def step(self) -> StepReport | None:
        """One step."""
        report = self.engine.step()
        if report is not None:
            self._take(report)
        return report

    def run(self) -> EngineDriver:
        """Steps until nothing is left to do."""
        while self.step() is not None or self.engine.is_under_way:
            pass
        assert self.engine.is_idle
        return self

    def _take(self, report: StepReport) -> None:
        for row in report.tokens.rows():
            assert row.request not in self.finish, "a row after the end"
            known = self.tokens.setdefault(row.request, [])
            assert row.position == self._first[row.request] + len(known)
            known += row.tokens
            if row.logprobs is not None:
                self.logprobs.setdefault(row.request, []).extend(row.logprobs)
            if row.finish:
                self.finish[row.request] = row.finish
        for started in report.started:
            assert started.request not in self.cached, "started twice"
            self.cached[started.request] = started.cached_tokens
        self.failures.update({failure.request: failure for failure in report.failures})
        self.retracted += report.retracted
        for page, stored in report.cache_changes.items():
            (self.pages.add if stored else self.pages.discard)(page)
        assert isinstance(report.gauges, Gauges)
        self.gauges = report.gauges
        self.most_pages_used = max(self.most_pages_used, report.gauges.pages_used)


def generate(engine: Engine, *admissions: Admission) -> list[list[int]]:
    """The output of requests that run together, in their order."""
    driver = EngineDriver(engine)
    driver.admit(*admissions)
    driver.run()
    return [driver.tokens[entry.request] for entry in admissions]
