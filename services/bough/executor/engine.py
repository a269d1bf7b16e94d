"""The body of the step loop: applies orders, composes a step, runs it, decides who ends. No threads, no protobuf."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import grpc
import torch
from torch import Tensor

from bough.common.errors import BoughError, InvalidRequestError, code_number
from bough.common.requests import RequestFailure, StartedRequest
from bough.common.sampling import FinishReason
from bough.executor.batch import ForwardBatch
from bough.executor.cache.events import CacheEventKind
from bough.executor.cache.pages import PagePool
from bough.executor.cache.radix import RadixTree
from bough.executor.composer import ComposerLimits, StepComposer
from bough.executor.observer import Observer
from bough.executor.orders import Admission, Capacity, Gauges, Orders, StepReport
from bough.executor.runner import ModelRunner
from bough.executor.running import Matcher, Running
from bough.executor.sampling import GrammarMask, Sampler, SampleResult, StopRule
from bough.executor.sequence import Sequence as Row
from bough.executor.step import StepArrays, StepPlan

logger = logging.getLogger(__name__)

INTERNAL = int(grpc.StatusCode.INTERNAL.value[0])
EXHAUSTED = int(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
_WORD_BITS = 32


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
        self._sampler = Sampler(max_rows=max_rows, vocab_size=runner.vocab_size, eos_token_ids=eos_token_ids)
        self._running: dict[int, Running] = {}
        self._report = StepReport()
        self._num_steps = 0
        self.capacity = Capacity(
            num_pages=runner.num_pages, page_size=runner.page_size, max_rows=max_rows, token_budget=token_budget
        )

    @property
    def is_idle(self) -> bool:
        """No request is here."""
        return not self._running

    def apply(self, orders: Orders, matcher_of: Callable[[Admission], Matcher | None] = lambda _: None) -> None:
        """Take orders between two steps. Bad requests become failures of the next report.

        Args:
            orders: From the scheduler.
            matcher_of: Gives the matcher of a request with a grammar, None for others.
        """
        for admission in orders.admissions:
            if admission.request in self._running:
                continue  # said twice, after a broken stream
            try:
                self._admit(admission, matcher_of(admission))
            except BoughError as error:
                self._fail(admission.request, len(admission.produced), code_number(error), str(error))
        for request in orders.cancels:
            running = self._running.get(request)
            if running is not None:
                self._end(running, FinishReason.CANCELLED)
        last = len(orders.retract_order)
        for index, request in enumerate(orders.retract_order):
            # Named ones give way before all others; among them the first one first.
            self._composer.reorder(request, (1 << 62) + last - index)

    def step(self) -> StepReport | None:
        """Run one step if there is something to do; what happened since the last call, or None."""
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

    def _admit(self, admission: Admission, matcher: Matcher | None) -> None:
        tokens = [*admission.prompt, *admission.produced]
        largest = max(tokens, default=-1)
        if largest >= self._runner.vocab_size:
            raise InvalidRequestError(
                f"prompt: token id {largest} is not below the vocabulary size {self._runner.vocab_size}", field="prompt"
            )
        num_prompt = len(admission.prompt)
        if not num_prompt or num_prompt >= self._runner.max_context:
            raise InvalidRequestError(
                f"prompt: {num_prompt} tokens; 1 to {self._runner.max_context - 1} are accepted", field="prompt"
            )
        stop = StopRule.build(
            admission.sampling,
            eos_token_ids=self._eos_token_ids,
            num_prompt_tokens=num_prompt,
            max_context=self._runner.max_context,
        )
        if matcher is not None:
            for token in admission.produced:
                if not matcher.accept(token):
                    raise InvalidRequestError(f"grammar: produced token {token} does not fit it", field="grammar")
        row = Row(
            request_id=admission.request,
            tokens=tokens,
            num_prompt=num_prompt,
            params=admission.sampling,
            namespace=admission.cache_namespace,
            order=admission.order,
        )
        running = Running(admission=admission, sequence=row, stop=stop, matcher=matcher)
        self._composer.add(row)
        self._running[admission.request] = running
        self._observer.admitted(running)

    def _note_plan(self, plan: StepPlan) -> None:
        for row in plan.retracted:
            running = self._running[row.request_id]
            self._forget_row(running)
            self._report.retracted.append(row.request_id)
            self._observer.retracted(running)
        for failed in plan.failed:
            request = failed.sequence.request_id
            self._fail(request, failed.sequence.num_generated, EXHAUSTED, failed.reason)

    def _run(self, plan: StepPlan, arrays: StepArrays) -> None:
        try:
            if plan.copies:
                self._runner.copy_pages([copy.src for copy in plan.copies], [copy.dst for copy in plan.copies])
            logits = self._runner.forward(_forward_batch(arrays))
            rows = [self._running.get(row.request_id) for row in plan.sampling]
            result = self._sample(rows, logits)
        except (RuntimeError, ValueError, MemoryError) as error:
            # The offenders are this step's rows; all others go on.
            logger.exception("a step failed and ends its %d requests", plan.num_rows)
            for row in self._composer.abandon(plan):
                self._fail(row.request_id, row.num_generated, INTERNAL, f"the step failed: {error}")
            return
        tokens = result.tokens.tolist()
        self._composer.complete(plan, tokens)
        for line, (running, token) in enumerate(zip(rows, tokens, strict=True)):
            if running is not None:
                self._produced(running, token, line, result)

    def _sample(self, rows: list[Running | None], logits: Tensor) -> SampleResult:
        indices: list[int] = []
        positions: list[int] = []
        masked: list[int] = []
        for line, running in enumerate(rows):
            assert running is not None
            row = running.sequence
            assert row.row is not None
            if running.sampler_row is None:
                running.sampler_row = row.row
                self._sampler.add(row.row, row.params, row.tokens[: row.num_prompt], row.tokens[row.num_prompt :])
            indices.append(row.row)
            positions.append(row.num_generated)
            if running.matcher is not None:
                masked.append(line)
        mask = self._mask(rows, masked) if masked else None
        return self._sampler.sample(logits, torch.tensor(indices), torch.tensor(positions), mask)

    def _mask(self, rows: list[Running | None], lines: list[int]) -> GrammarMask:
        words = -(-self._runner.vocab_size // _WORD_BITS)
        bits = torch.empty((len(lines), words), dtype=torch.int32)
        for index, line in enumerate(lines):
            running = rows[line]
            assert running is not None and running.matcher is not None
            running.matcher.fill(bits, index)
        return GrammarMask(bits=bits, lines=lines)

    def _produced(self, running: Running, token: int, line: int, result: SampleResult) -> None:
        row = running.sequence
        position = row.num_generated - 1
        reason = result.failed.get(line)
        if reason is None and running.matcher is not None and not running.matcher.accept(token):
            reason = f"token {token} does not fit the grammar"
        if reason is not None:
            self._fail(row.request_id, position, INTERNAL, reason)
            return
        report = self._report
        if not running.is_started:
            running.is_started = True
            report.started.append(StartedRequest(row.request_id, row.num_cached_tokens))
            self._observer.started(running)
        if result.logprobs is not None and (entry := result.logprobs[line]) is not None:
            report.tokens.logprobs[len(report.tokens.tokens)] = entry
        finish = running.stop.reason(token, position)
        if finish is FinishReason.NONE and running.matcher is not None and running.matcher.is_done:
            finish = FinishReason.STOP
        report.tokens.append(row.request_id, position, token, int(finish))
        if finish is not FinishReason.NONE:
            self._end(running, finish)

    def _end(self, running: Running, reason: FinishReason) -> None:
        self._forget_row(running)
        self._composer.finish(running.sequence)
        del self._running[running.sequence.request_id]
        self._observer.ended(running, reason)

    def _fail(self, request: int, position: int, code: int, message: str) -> None:
        report = self._report
        report.failures.append(RequestFailure(request, code, message))
        report.tokens.requests.append(request)
        report.tokens.positions.append(position)
        report.tokens.counts.append(0)
        report.tokens.finish.append(int(FinishReason.ERROR))
        running = self._running.get(request)
        if running is None:
            return
        if self._composer.get(request) is running.sequence:
            self._end(running, FinishReason.ERROR)
        else:  # the composer has let go of it already
            self._forget_row(running)
            del self._running[request]
            self._observer.ended(running, FinishReason.ERROR)

    def _forget_row(self, running: Running) -> None:
        if running.sampler_row is not None:
            self._sampler.remove(running.sampler_row)
            running.sampler_row = None

    def gauges(self, step_s: float = 0.0) -> Gauges:
        """The state now."""
        composer = self._composer
        return Gauges(
            running=composer.num_running,
            waiting=composer.num_waiting,
            pages_used=composer.num_pages_used,
            pages_cached=composer.num_pages_cached,
            pages_free=composer.num_pages_free,
            step_us=int(step_s * 1e6),
        )

    def snapshot(self) -> list[bytes]:
        """Hashes of all full pages in the cache, for a scheduler that knows none of them."""
        return [page for event in self._tree.snapshot() for page in event.page_hashes]

    def _take_report(self, began: float) -> StepReport | None:
        report = self._report
        for event in self._tree.drain_events():
            stored = event.kind is CacheEventKind.STORED
            (report.pages_stored if stored else report.pages_removed).extend(event.page_hashes)
        if not (report.step or report.tokens.requests or report.retracted or report.pages_removed):
            return None
        report.gauges = self.gauges(time.perf_counter() - began)
        self._report = StepReport()
        return report


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
