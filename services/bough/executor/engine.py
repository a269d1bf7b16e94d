"""The body of the step loop: applies orders, composes a step, runs it, decides who ends. No threads, no protobuf."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

import grpc

from bough.common.columns import TokenRow
from bough.common.errors import InvalidRequestError, code_number
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import FinishReason
from bough.executor.cache.events import CacheEventKind
from bough.executor.cache.pages import PagePool
from bough.executor.cache.radix import RadixTree
from bough.executor.composer import StepComposer
from bough.executor.draft_pace import pays_to_wait
from bough.executor.intake import Model, make_running, reached_end
from bough.executor.jump_forward import drafts_of
from bough.executor.mixed_budget import FixedBudget
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Capacity, Gauges, Orders, StepReport
from bough.executor.pipeline.base import DeviceFailedError, Drawn, Pipeline
from bough.executor.row_table import RowTable
from bough.executor.running import Running
from bough.executor.sampling.sampler import NOT_FINITE, NOTHING_ALLOWED
from bough.executor.sequence import Sequence as Row
from bough.executor.step import ComposerLimits, StepPlan

logger = logging.getLogger(__name__)

INTERNAL = int(grpc.StatusCode.INTERNAL.value[0])
INVALID = int(grpc.StatusCode.INVALID_ARGUMENT.value[0])
_GIVES_WAY = 1 << 62
"""Order of the requests that the scheduler named for retraction: after all that it did not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Flight:
    """A step under way."""

    sampling: list[Row]
    running: list[Running]
    began: float
    num_drafts: int = 0


class Engine:
    """Runs requests on a model.

    A step is composed and launched while earlier ones compute; their results follow in order.

    Args:
        model: The loaded model.
        eos_token_ids: The model's end-of-sequence ids.
        max_rows: Requests that run at once.
        token_budget: Tokens computed in one step at most.
        mixed_token_budget: Prompt tokens in a step that also decodes, while few prompts wait; None for as many as the
            pipeline has measured to slow decodes little, and for no other limit where it has not.
        observer: Told of the turns in each request's life.
        make_pipeline: Makes what runs the steps, for the rows of the composer.
    """

    def __init__(
        self,
        model: Model,
        *,
        eos_token_ids: Sequence[int],
        max_rows: int,
        token_budget: int,
        mixed_token_budget: int | None = None,
        observer: Observer,
        make_pipeline: Callable[[RowTable], Pipeline],
    ) -> None:
        self._model = model
        self._eos_token_ids = tuple(eos_token_ids)
        self._observer = observer
        pool = PagePool(num_pages=model.num_pages, page_size=model.page_size)
        self._tree = RadixTree(page_size=model.page_size, release=pool.free)
        limits = ComposerLimits(
            max_rows=max_rows,
            token_budget=token_budget,
            max_context=model.max_context,
            context_cost=model.context_cost,
        )
        self._composer = StepComposer(pool=pool, tree=self._tree, limits=limits)
        self._pipeline = make_pipeline(self._composer.table)
        budget = self._pipeline.mixed_budget if mixed_token_budget is None else FixedBudget(mixed_token_budget)
        self._composer.limits = replace(limits, mixed_budget=budget, max_lines=self._pipeline.max_lines)
        if budget is not None:
            few, many = (int(budget.tokens(num_decodes, 0, 1.0)) for num_decodes in (1, max_rows))
            logger.info("prompt tokens that may join 1 and %d decodes: %d and %d", max_rows, few, many)
        self._flights: deque[_Flight] = deque()
        self._running: dict[int, Running] = {}
        self._constrained: dict[int, Running] = {}
        self._give_way: list[int] = []
        self._prefill_tokens = 0
        self._report = StepReport()
        self._gauges = self.gauges()
        self._num_steps = 0
        self._step_us = 0
        self._last_end = 0.0
        self._applied = 0
        self.capacity = Capacity(
            num_pages=model.num_pages, page_size=model.page_size, max_rows=max_rows, token_budget=token_budget
        )

    @property
    def is_idle(self) -> bool:
        """No request is here."""
        return not self._running

    @property
    def is_under_way(self) -> bool:
        """A step is launched whose results are not taken yet."""
        return bool(self._flights)

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
        for base in orders.released_bases:
            self._composer.release_base(base)
        if orders.queued is not None:
            self._composer.num_queued = orders.queued
        if orders.token_budget is not None:
            self._limit(orders.token_budget or self.capacity.token_budget)
        if orders.retract_order is not None:
            self._reorder(orders.retract_order)

    def step(self) -> StepReport | None:
        """Launch a step if there is something to do and room for it; what happened since the last call.

        Returns:
            None when nothing happened; unless `is_under_way`, nothing will until further orders.

        Raises:
            DeviceFailedError: the engine is of no use any more; what it has not reported yet must not be reported.
        """
        began = time.perf_counter()
        has_room = len(self._flights) < self._pipeline.depth
        launched = has_room and self._launch(began)
        # Wait only when nothing else can be done before the oldest results are there.
        wait = not launched or len(self._flights) >= self._pipeline.depth
        while self._flights and self._collect(wait=wait):
            wait = False
        return self._take_report()

    def _launch(self, began: float) -> bool:
        self._propose_drafts()
        plan = self._composer.compose()
        if plan is None:
            return False
        self._note_plan(plan)
        if not plan.num_rows:
            return False
        sampling = plan.sampling
        running = [self._running[row.request_id] for row in sampling]
        is_advanced = False

        def advance() -> None:
            nonlocal is_advanced
            if not is_advanced:
                is_advanced = True
                self._composer.advance(plan)

        def settle() -> None:
            advance()
            self._collect_all()

        try:
            self._pipeline.launch(plan, running, settle)
        except DeviceFailedError:
            raise  # no fault of the requests, which can go on elsewhere
        except Exception as error:
            if is_advanced:
                raise
            offenders = self._composer.abandon(plan)
            logger.exception("a step failed and ends %d requests", len(offenders))
            for row in offenders:
                self._fail(self._running[row.request_id], INTERNAL, f"the step failed: {error}")
            # Launches that fail in a row must not run ahead of the steps that still read what was staged for them.
            self._collect_all()
            return True
        advance()
        prompts = [work for work in plan.chunks if not (work.drafts or work.sequence.was_retracted)]
        self._prefill_tokens += sum(work.num_tokens for work in prompts)
        num_drafts = sum(len(work.drafts) for work in plan.chunks)
        self._flights.append(_Flight(sampling=sampling, running=running, began=began, num_drafts=num_drafts))
        self._observer.launched(plan)
        return True

    def _propose_drafts(self) -> None:
        if not self._constrained or not self._pipeline.takes_drafts:
            return
        num_running = self._composer.num_running
        if self._flights and pays_to_wait(self._constrained.values(), num_running):
            self._collect_all()
        cost = self._pipeline.draft_cost(num_running)
        for entry in self._constrained.values():
            if drafts := drafts_of(entry, cost):
                self._composer.drafts.propose(entry.sequence, drafts)

    def _collect_all(self) -> None:
        while self._flights:
            self._collect(wait=True)

    def _collect(self, *, wait: bool) -> bool:
        """Take the results of the oldest step under way; False if they are not there yet."""
        drawn = self._pipeline.collect(wait=wait)
        if drawn is None:
            return False
        flight = self._flights.popleft()
        self._num_steps += 1
        self._report.step = self._num_steps
        positions = [row.num_generated for row in flight.sampling]
        void = self._composer.record(flight.sampling, drawn.tokens)
        if flight.num_drafts:
            num_gone = _count_on(positions, flight.running)
            self._observer.accepted(flight.num_drafts - len(void) - num_gone)
        self._record(flight.running, drawn, positions, void)
        now = time.perf_counter()
        seconds = now - max(flight.began, self._last_end)
        self._last_end = now
        self._step_us = int(seconds * 1e6)
        self._observer.stepped(seconds)
        return True

    def _admit(self, admission: Admission) -> None:
        try:
            running = make_running(admission, self._model, self._eos_token_ids)
        except Exception as error:
            if not isinstance(error, InvalidRequestError):
                logger.error("a request cannot be admitted", exc_info=error)
            self._refuse(admission.request, len(admission.produced), code_number(error), str(error))
            return
        self._composer.add(running.sequence)
        self._running[admission.request] = running
        if running.matcher is not None:
            self._constrained[admission.request] = running
        self._observer.admitted(running)
        finish = reached_end(running)
        if finish is not FinishReason.NONE:
            self._report.tokens.append_row(TokenRow(admission.request, len(admission.produced), [], finish))
            self._end(running, finish)

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
            self._pipeline.forget(running)
            self._report.retracted.append(row.request_id)
            self._observer.retracted(running)
        for failed in plan.failed:
            # What the whole pool cannot hold cannot be had by trying again.
            self._fail(self._running[failed.sequence.request_id], INVALID, failed.reason)

    def _record(self, running: list[Running], drawn: Drawn, positions: list[int], void: set[int]) -> None:
        """Report a step's tokens and end those whose last one came.

        Sequences that have ended since are left out, and tokens behind a draft that was wrong.
        """
        finish = [0] * len(running)
        left_out = void
        for line in void:
            drawn.failed.pop(line, None)
        for line, (entry, token, position) in enumerate(zip(running, drawn.tokens, positions, strict=True)):
            if entry.is_ended or line in void:
                left_out.add(line)
                continue
            stop = entry.stop
            if not entry.is_plain or token in stop.stop_token_ids or position + 1 >= stop.max_tokens:
                finish[line] = int(self._look_closer(entry, token, line, position, drawn))
        left_out.update(drawn.failed)
        lines: Sequence[int] = range(len(running))
        if left_out:
            lines = [line for line in lines if line not in left_out]
        self._add_columns(running, drawn, positions, finish, lines)
        for line, reason in drawn.failed.items():
            if not running[line].is_ended:
                self._fail_line(running[line], reason, positions[line])
        self._condemn([running[line].sequence for line, reason in drawn.failed.items() if reason == NOT_FINITE])

    def _add_columns(
        self, running: list[Running], drawn: Drawn, positions: list[int], finish: list[int], lines: Sequence[int]
    ) -> None:
        columns = self._report.tokens
        first = len(columns.tokens)
        firsts = [line for line in lines if not line or running[line] is not running[line - 1]]
        columns.requests += [running[line].sequence.request_id for line in firsts]
        columns.positions += [positions[line] for line in firsts]
        columns.tokens += [drawn.tokens[line] for line in lines]
        if len(firsts) == len(lines):
            columns.counts += [1] * len(lines)
            columns.finish += [finish[line] for line in lines]
        else:
            for _, own in groupby(lines, key=lambda line: running[line].request):
                *_, last = counted = list(own)
                columns.counts.append(len(counted))
                columns.finish.append(finish[last])
        if drawn.logprobs is not None:
            for index, line in enumerate(lines):
                if (entry_logprobs := drawn.logprobs[line]) is not None:
                    columns.logprobs[first + index] = entry_logprobs

    def _fail_line(self, running: Running, reason: str, position: int) -> None:
        code = INTERNAL
        if reason == NOTHING_ALLOWED and running.matcher is not None:
            # The client's fault: a schema or expression that no output can satisfy.
            code, reason = INVALID, "response_format: the grammar allows no output; a satisfiable one is accepted"
        self._fail(running, code, reason, position=position)

    def _condemn(self, rows: Sequence[Row]) -> None:
        """Keep others from the pages that these have filled: keys and values may be as little finite as the logits.

        What they found in the cache stays there. Others have computed it, and their own tokens may be the reason.
        """
        for row in rows:
            first_page = row.num_cached_tokens // self._model.page_size
            self._tree.condemn(row.namespace, row.packed(0, row.num_tokens), first_page)

    def _look_closer(self, running: Running, token: int, line: int, position: int, drawn: Drawn) -> FinishReason:
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
        finish = running.stop.reason(token, position)
        if finish is FinishReason.NONE and matcher is not None and matcher.is_done:
            finish = FinishReason.STOP
        if finish is not FinishReason.NONE:
            self._end(running, finish)
        return finish

    def _end(self, running: Running, reason: FinishReason) -> None:
        running.is_ended = True
        self._pipeline.forget(running)
        self._composer.finish(running.sequence)  # no effect where the composer has let go of it already
        del self._running[running.request]
        self._constrained.pop(running.request, None)
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
            prefill_tokens=self._prefill_tokens,
        )

    def _take_report(self) -> StepReport | None:
        report = self._report
        for event in self._tree.drain_events():
            stored = event.kind is CacheEventKind.STORED
            for page in event.page_hashes:
                report.cache_changes[page] = stored
        gauges = self.gauges(self._step_us)
        # A cancelled request may leave nothing but other gauges behind.
        is_silent = not (report.step or report.tokens.requests or report.retracted or report.cache_changes)
        if is_silent and gauges == self._gauges:
            return None
        report.applied = self._applied
        report.gauges = self._gauges = gauges
        self._report = StepReport()
        return report


def _count_on(positions: list[int], running: list[Running]) -> int:
    """Have the positions of the lines of one sequence follow one another; how many drafts' sequences have ended."""
    num_gone = 0
    for line in range(1, len(positions)):
        if running[line] is running[line - 1]:
            positions[line] = positions[line - 1] + 1
            num_gone += running[line].is_ended
    return num_gone
