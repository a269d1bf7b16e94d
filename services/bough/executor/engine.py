"""The body of the step loop: applies orders, composes a step, runs it, decides who ends. No threads, no protobuf."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import grpc
import torch

from bough.common.columns import TokenRow
from bough.common.errors import InternalError, InvalidRequestError, code_number
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import FinishReason
from bough.executor.batch import ForwardBatch
from bough.executor.cache.events import CacheEventKind
from bough.executor.cache.pages import PagePool
from bough.executor.cache.radix import RadixTree
from bough.executor.composer import ComposerLimits, StepComposer
from bough.executor.drawing import Drawing, Drawn
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Capacity, Gauges, Orders, StepReport
from bough.executor.runner import ModelRunner
from bough.executor.running import Running
from bough.executor.sampling import StopRule
from bough.executor.sampling.sampler import NOTHING_ALLOWED
from bough.executor.sequence import Sequence as Row
from bough.executor.step import StepArrays, StepPlan

logger = logging.getLogger(__name__)

INTERNAL = int(grpc.StatusCode.INTERNAL.value[0])
INVALID = int(grpc.StatusCode.INVALID_ARGUMENT.value[0])
_GIVES_WAY = 1 << 62
"""Order of the requests that the scheduler named for retraction: after all that it did not name."""


class Engine:
    """Runs requests on a model.

    Args:
        runner: The loaded model.
        eos_token_ids: The model's end-of-sequence ids.
        max_rows: Requests that run at once.
        token_budget: Tokens computed in one step at most.
        observer: Told of the turns in each request's life.
    """

    def __init__(
        self,
        runner: ModelRunner,
        *,
        eos_token_ids: Sequence[int],
        max_rows: int,
        token_budget: int,
        observer: Observer,
    ) -> None:
        self._runner = runner
        self._eos_token_ids = tuple(eos_token_ids)
        self._observer = observer
        pool = PagePool(num_pages=runner.num_pages, page_size=runner.page_size)
        self._tree = RadixTree(page_size=runner.page_size, release=pool.free)
        limits = ComposerLimits(max_rows=max_rows, token_budget=token_budget, max_context=runner.max_context)
        self._composer = StepComposer(pool=pool, tree=self._tree, limits=limits)
        self._drawing = Drawing(max_rows=max_rows, vocab_size=runner.vocab_size, eos_token_ids=eos_token_ids)
        self._running: dict[int, Running] = {}
        self._give_way: list[int] = []
        self._report = StepReport()
        self._gauges = self.gauges()
        self._num_steps = 0
        self._applied = 0
        self.capacity = Capacity(
            num_pages=runner.num_pages, page_size=runner.page_size, max_rows=max_rows, token_budget=token_budget
        )

    @property
    def is_idle(self) -> bool:
        """No request is here."""
        return not self._running

    def apply(self, orders: Orders) -> None:
        """Take orders between two steps. Bad requests become failures of the next report."""
        self._applied = orders.number
        for request in orders.cancels:
            running = self._running.get(request)
            if running is not None:
                self._end(running, FinishReason.CANCELLED)
        for admission in orders.admissions:
            if admission.request not in self._running:
                self._admit(admission)
        if orders.token_budget is not None:
            self._limit(orders.token_budget or self.capacity.token_budget)
        if orders.retract_order is not None:
            self._reorder(orders.retract_order)

    def step(self) -> StepReport | None:
        """Run one step if there is something to do; what happened since the last call.

        Returns:
            None when nothing happened: nothing will until further orders.
        """
        began = time.perf_counter()
        plan = self._composer.compose()
        if plan is not None:
            self._note_plan(plan)
            if plan.arrays is not None:
                self._num_steps += 1
                self._report.step = self._num_steps
                self._run(plan, plan.arrays)
                self._observer.stepped(plan, time.perf_counter() - began)
        return self._take_report(began)

    def _admit(self, admission: Admission) -> None:
        try:
            running = self._make(admission)
        except Exception as error:
            if not isinstance(error, InvalidRequestError):
                logger.error("a request cannot be admitted", exc_info=error)
            self._refuse(admission.request, len(admission.produced), code_number(error), str(error))
            return
        self._composer.add(running.sequence)
        self._running[admission.request] = running
        self._observer.admitted(running)
        finish = _reached_end(running)
        if finish is not FinishReason.NONE:
            self._report.tokens.append_row(TokenRow(admission.request, len(admission.produced), [], finish))
            self._end(running, finish)

    def _make(self, admission: Admission) -> Running:
        tokens = [*admission.prompt, *admission.produced]
        num_prompt, max_context = len(admission.prompt), self._runner.max_context
        if not num_prompt or num_prompt >= max_context:
            raise InvalidRequestError(
                f"prompt: {num_prompt} tokens; 1 to {max_context - 1} are accepted", field="prompt"
            )
        if (largest := max(tokens)) >= self._runner.vocab_size:
            raise InvalidRequestError(
                f"prompt: token id {largest} is not below the vocabulary size {self._runner.vocab_size}", field="prompt"
            )
        matcher = admission.matcher
        if (matcher is None) != (admission.sampling.grammar is None):
            raise InternalError("a request with a grammar came without its matcher")
        if matcher is not None:
            for token in admission.produced:
                if not matcher.accept(token):
                    raise InvalidRequestError(f"grammar: produced token {token} does not fit it", field="grammar")
        return Running(
            admission=admission,
            stop=StopRule.build(
                admission.sampling,
                eos_token_ids=self._eos_token_ids,
                num_prompt_tokens=num_prompt,
                max_context=max_context,
            ),
            matcher=matcher,
            sequence=Row(
                request_id=admission.request,
                tokens=tokens,
                num_prompt=num_prompt,
                params=admission.sampling,
                namespace=admission.cache_namespace,
                order=admission.order,
            ),
        )

    def _limit(self, token_budget: int) -> None:
        # Prefills move only if a step of all rows leaves them a token; more than the own limit has no memory.
        budget = min(max(token_budget, self.capacity.max_rows + 1), self.capacity.token_budget)
        self._composer.limits = replace(self._composer.limits, token_budget=budget)

    def _reorder(self, requests: Sequence[int]) -> None:
        for request in self._give_way:
            if (running := self._running.get(request)) is not None:
                self._composer.reorder(request, running.admission.order)
        self._give_way = list(requests)
        for place, request in enumerate(reversed(requests)):
            self._composer.reorder(request, _GIVES_WAY + place)

    def _note_plan(self, plan: StepPlan) -> None:
        for row in plan.retracted:
            running = self._running[row.request_id]
            self._drawing.forget(running)
            self._report.retracted.append(row.request_id)
            self._observer.retracted(running)
        for failed in plan.failed:
            # What the whole pool cannot hold cannot be had by trying again.
            self._fail(self._running[failed.sequence.request_id], INVALID, failed.reason)

    def _run(self, plan: StepPlan, arrays: StepArrays) -> None:
        running = [self._running[row.request_id] for row in plan.sampling]
        try:
            if plan.copies:
                self._runner.copy_pages([copy.src for copy in plan.copies], [copy.dst for copy in plan.copies])
            drawn = self._drawing.draw(running, arrays, self._runner.forward(_forward_batch(arrays)))
        except Exception as error:
            # The offenders are this step's rows; all others go on.
            logger.exception("a step failed and ends its %d requests", plan.num_rows)
            for row in self._composer.abandon(plan):
                self._fail(self._running[row.request_id], INTERNAL, f"the step failed: {error}")
            return
        self._composer.complete(plan, drawn.tokens)
        self._record(running, drawn)

    def _record(self, running: list[Running], drawn: Drawn) -> None:
        """Report a step's tokens and end those whose last one came."""
        finish = [0] * len(running)
        for line, (entry, token, position) in enumerate(zip(running, drawn.tokens, drawn.positions, strict=True)):
            stop = entry.stop
            if not entry.is_plain or token in stop.stop_token_ids or position + 1 >= stop.max_tokens:
                finish[line] = int(self._look_closer(entry, token, line, drawn))
        lines: Sequence[int] = range(len(running))
        if drawn.failed:
            lines = [line for line in lines if line not in drawn.failed]
        columns = self._report.tokens
        first = len(columns.tokens)
        columns.requests += [running[line].sequence.request_id for line in lines]
        columns.positions += [drawn.positions[line] for line in lines]
        columns.counts += [1] * len(lines)
        columns.tokens += [drawn.tokens[line] for line in lines]
        columns.finish += [finish[line] for line in lines]
        if drawn.logprobs is not None:
            for index, line in enumerate(lines):
                if (entry_logprobs := drawn.logprobs[line]) is not None:
                    columns.logprobs[first + index] = entry_logprobs
        for line, reason in drawn.failed.items():
            code = INTERNAL
            if reason == NOTHING_ALLOWED and running[line].matcher is not None:
                # The client's fault: a schema or expression that no output can satisfy.
                code, reason = INVALID, "response_format: the grammar allows no output; a satisfiable one is accepted"
            self._fail(running[line], code, reason, position=drawn.positions[line])

    def _look_closer(self, running: Running, token: int, line: int, drawn: Drawn) -> FinishReason:
        """Deal with a row that is not plain; its finish reason, or a failure noted in `drawn`."""
        matcher = running.matcher
        if line in drawn.failed:
            return FinishReason.NONE
        if matcher is not None and not matcher.accept(token):
            drawn.failed[line] = f"token {token} does not fit the grammar"
            return FinishReason.NONE
        if not running.is_started:
            running.is_started = True
            running.is_plain = matcher is None
            row = running.sequence
            self._report.started.append(StartedRequest(row.request_id, row.num_cached_tokens))
            self._observer.started(running)
        finish = running.stop.reason(token, drawn.positions[line])
        if finish is FinishReason.NONE and matcher is not None and matcher.is_done:
            finish = FinishReason.STOP
        if finish is not FinishReason.NONE:
            self._end(running, finish)
        return finish

    def _end(self, running: Running, reason: FinishReason) -> None:
        self._drawing.forget(running)
        self._composer.finish(running.sequence)  # no effect where the composer has let go of it already
        del self._running[running.request]
        self._observer.ended(running, reason)

    def _fail(self, running: Running, code: int, message: str, *, position: int | None = None) -> None:
        self._refuse(running.request, running.sequence.num_generated if position is None else position, code, message)
        self._end(running, FinishReason.ERROR)

    def _refuse(self, request: int, position: int, code: int, message: str) -> None:
        self._report.add_failure(RequestFailure(request, code, message), position)

    def gauges(self, step_us: int = 0) -> Gauges:
        """The state now."""
        composer = self._composer
        return Gauges(
            running=composer.num_running,
            waiting=composer.num_waiting,
            pages_used=composer.num_pages_used,
            pages_cached=composer.num_pages_cached,
            pages_free=composer.num_pages_free,
            step_us=step_us,
        )

    def _take_report(self, began: float) -> StepReport | None:
        report = self._report
        for event in self._tree.drain_events():
            stored = event.kind is CacheEventKind.STORED
            for page in event.page_hashes:
                report.cache_changes[page] = stored
        step_us = int((time.perf_counter() - began) * 1e6) if report.step else self._gauges.step_us
        gauges = self.gauges(step_us)
        # A cancelled request may leave nothing but other gauges behind.
        is_silent = not (report.step or report.tokens.requests or report.retracted or report.cache_changes)
        if is_silent and gauges == self._gauges:
            return None
        report.applied = self._applied
        report.gauges = self._gauges = gauges
        self._report = StepReport()
        return report


def _reached_end(running: Running) -> FinishReason:
    """Whether a request comes in whose produced tokens are all there will be."""
    produced = running.admission.produced
    if not produced:
        return FinishReason.NONE
    finish = running.stop.reason(produced[-1], len(produced) - 1)
    if finish is FinishReason.NONE and running.matcher is not None and running.matcher.is_done:
        return FinishReason.STOP
    return finish


def _forward_batch(arrays: StepArrays) -> ForwardBatch:
    return ForwardBatch(
        tokens=torch.from_numpy(arrays.tokens),
        positions=torch.from_numpy(arrays.positions),
        slots=torch.from_numpy(arrays.slots),
        query_start=torch.from_numpy(arrays.query_start),
        context_lens=torch.from_numpy(arrays.context_lens),
        page_table=torch.from_numpy(arrays.page_table),
        num_decode_rows=arrays.num_decode_rows,
        logit_rows=torch.from_numpy(arrays.logit_rows),
    )
