"""Drives an engine by hand and follows its reports as a scheduler would."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bough.common.requests import RequestFailure
from bough.common.sampling import FinishReason, SamplingParams, TokenLogprobs
from bough.common.telemetry import Telemetry
from bough.executor.bases import Base
from bough.executor.drawing import Drawing
from bough.executor.engine import Engine
from bough.executor.mixed_budget import MixedBudget
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Gauges, Orders, StepReport
from bough.executor.pipeline.base import Drawn, Pipeline
from bough.executor.pipeline.host import HostPipeline, _forward_batch
from bough.executor.row_table import RowTable
from bough.executor.runner import ModelRunner, RunnerConfig
from bough.executor.running import Matcher, Running
from bough.executor.step import StepArrays, StepPlan


def load_runner(model_dir: Path, **fields: Any) -> ModelRunner:
    """A runner in float32 with a small pool."""
    config: dict[str, Any] = {"num_pages": 400, "max_rows": 40, "token_budget": 512, "num_threads": 1, **fields}
    return ModelRunner.load(RunnerConfig(model_dir=model_dir, dtype="float32", **config))


def make_engine(
    runner: ModelRunner,
    *,
    max_rows: int = 40,
    token_budget: int = 512,
    eos: Sequence[int] = (),
    make_pipeline: Callable[[RowTable], Pipeline] | None = None,
) -> Engine:
    """A fresh engine, its cache empty."""
    observer = Observer(Telemetry("executor"))
    return Engine(
        runner,
        eos_token_ids=eos,
        max_rows=max_rows,
        token_budget=token_budget,
        observer=observer,
        make_pipeline=make_pipeline or (lambda table: HostPipeline(runner, table, eos_token_ids=eos)),
    )


class DelayedPipeline:
    """Steps on the CPU whose results are held back as long as the engine may go without them, as on a slow GPU.

    The "device" knows only what a GPU would: pages from the changes of the row table, and of each row the token that it
    sampled last with its position, so that the tokens of decodes never come from the host. Of a row that had drafts it
    knows neither.

    Args:
        runner: The loaded model.
        table: The rows that the composer fills.
        eos_token_ids: The model's end-of-sequence ids.
        depth: Steps that may be under way.
        max_lines: Lines of logits that a step may have.
    """

    def __init__(
        self,
        runner: ModelRunner,
        table: RowTable,
        *,
        eos_token_ids: Sequence[int],
        depth: int,
        max_lines: int | None = None,
    ) -> None:
        self.depth = depth
        self.takes_drafts = True
        self.max_lines = max_lines
        self.mixed_budget: MixedBudget | None = None
        self.num_launched = 0
        self.num_rests = 0
        """Steps that were launched when nothing was under way."""
        self.num_drafts = 0
        self.num_settled = 0
        self.most_under_way = 0
        self._runner = runner
        self._table = table
        self._drawing = Drawing(max_rows=table.max_rows, vocab_size=runner.vocab_size, eos_token_ids=eos_token_ids)
        self._pages = np.full_like(table.page_table, -1)
        self._token = np.full(table.max_rows, -1, np.int64)
        self._position = np.full(table.max_rows, -1, np.int64)
        self._drafted: set[Running] = set()
        self._under_way: deque[Drawn] = deque()

    def draft_cost(self, num_rows: int) -> float:
        return 0.3

    def launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        assert self.max_lines is None or len(running) <= self.max_lines
        self.num_launched += 1
        self.num_rests += not self._under_way
        self.num_drafts += sum(len(work.drafts) for work in plan.chunks)
        arrays = self._begin(plan, running)
        if plan.copies:
            self._runner.copy_pages([copy.src for copy in plan.copies], [copy.dst for copy in plan.copies])
        logits = self._runner.forward(_forward_batch(arrays))
        if any(entry.matcher is not None for entry in running):
            self.num_settled += 1
            settle()
        # Those whose last token turned up just now have let go of their rows: nobody wants their next one.
        lines = [line for line, entry in enumerate(running) if not entry.is_ended]
        kept = replace(arrays, logit_rows=arrays.logit_rows[lines], num_decode_rows=0)  # some lines of them are gone
        drawn = self._drawing.draw([running[line] for line in lines], kept, logits[lines])
        tokens = [0] * len(running)
        logprobs: list[TokenLogprobs | None] | None = None if drawn.logprobs is None else [None] * len(running)
        for index, line in enumerate(lines):
            tokens[line] = drawn.tokens[index]
            if logprobs is not None and drawn.logprobs is not None:
                logprobs[line] = drawn.logprobs[index]
            row, has_drafts = running[line].sequence.row, bool(running[line].sequence.drafts)
            self._token[row] = -1 if has_drafts else tokens[line]
            self._position[row] = -1 if has_drafts else arrays.positions[arrays.logit_rows[line]] + 1
        failed = {lines[index]: reason for index, reason in drawn.failed.items()}
        self._under_way.append(Drawn(tokens=tokens, logprobs=logprobs, failed=failed))
        self.most_under_way = max(self.most_under_way, len(self._under_way))

    def collect(self, *, wait: bool) -> Drawn | None:
        return self._under_way.popleft() if wait or len(self._under_way) >= self.depth else None

    def forget(self, running: Running) -> None:
        self._drafted.discard(running)
        self._drawing.forget(running)

    def _begin(self, plan: StepPlan, running: list[Running]) -> StepArrays:
        """The step's input, made of what the device knows."""
        for change in self._table.changes:
            self._pages[change.row, change.first : change.first + len(change.pages)] = change.pages
        self._table.changes.clear()
        for entry in running:
            sequence = entry.sequence
            begins = entry.sampler_row is None and sequence.num_uncomputed == 1
            if begins or (entry in self._drafted and not sequence.num_pending):
                self._token[sequence.row] = sequence.tokens[-1]
                self._position[sequence.row] = sequence.num_computed
        self._drafted.difference_update(running)
        self._drafted.update(entry for entry in running if entry.sequence.drafts)
        arrays = plan.arrays
        decodes = arrays.rows[: arrays.num_decode_rows]
        assert (arrays.positions[: len(decodes)] == self._position[decodes]).all()
        arrays.tokens[: len(decodes)] = self._token[decodes]
        page_size = self._table.page_size
        pages, offsets = np.divmod(arrays.positions, page_size)
        lines = np.repeat(arrays.rows, np.diff(arrays.query_start))
        arrays.slots[:] = self._pages[lines, pages] * page_size + offsets
        for line, length in enumerate(arrays.context_lens.tolist()):
            num_pages = -(-length // page_size)
            arrays.page_table[line, :num_pages] = self._pages[arrays.rows[line], :num_pages]
        return arrays


def make_delayed_engine(
    runner: ModelRunner, *, depth: int = 3, eos: Sequence[int] = (), max_lines: int | None = None, **limits: Any
) -> tuple[Engine, DelayedPipeline]:
    """An engine that runs `depth` steps ahead, and its pipeline."""
    made: list[DelayedPipeline] = []

    def make(table: RowTable) -> Pipeline:
        made.append(DelayedPipeline(runner, table, eos_token_ids=eos, depth=depth, max_lines=max_lines))
        return made[0]

    engine = make_engine(runner, eos=eos, make_pipeline=make, **limits)
    return engine, made[0]


def make_gpu_engine(
    model_dir: Path, *, eos: Sequence[int] = (), dtype: Literal["float32", "bfloat16"] = "float32", **fields: Any
) -> Engine:
    """An engine on the GPU, its cache empty; chunks beside decodes have all of its token budget."""
    from bough.executor.gpu.pipeline import GpuPipeline
    from bough.executor.gpu.runner import GpuRunner

    config: dict[str, Any] = {"num_pages": 400, "max_rows": 40, "token_budget": 512, **fields}
    runner = GpuRunner.load(RunnerConfig(model_dir=model_dir, dtype=dtype, **config), torch.device("cuda", 0))
    return Engine(
        runner,
        eos_token_ids=eos,
        max_rows=config["max_rows"],
        token_budget=config["token_budget"],
        mixed_token_budget=config["token_budget"],
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
    base: Base | None = None,
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
        base=base,
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
