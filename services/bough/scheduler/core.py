"""The scheduler itself: what happens to requests, consumers and executors, without sockets, threads or a clock.

All methods run on one thread. Each event (`on_...`) changes the records first and only then gathers what others must be
told, so nothing leaves the process that is not recorded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from itertools import count

from bough.common.columns import TokenRow
from bough.common.errors import MismatchError, NotFoundError, UnavailableError
from bough.common.model import ModelIdentity, check_same_model
from bough.common.requests import RequestFailure, Submission
from bough.common.sampling import FinishReason
from bough.common.telemetry import request_extra
from bough.scheduler import failures
from bough.scheduler.admission import Admission
from bough.scheduler.consumers import Consumer
from bough.scheduler.executors import Attachment, Executor, StepReport
from bough.scheduler.ledger import Ledger
from bough.scheduler.observer import Observer
from bough.scheduler.policy import AdmissionPolicy
from bough.scheduler.program_orders import ProgramChange, StateAnswer
from bough.scheduler.programs import Program, ProgramLimits, Programs
from bough.scheduler.prompts import SharedPrompt
from bough.scheduler.queue import Waiting, WaitingQueue
from bough.scheduler.recorder import Recorder
from bough.scheduler.requests import RequestRecord, RequestState
from bough.scheduler.timers import Timers

logger = logging.getLogger(__name__)

EXECUTOR_GRACE_S = 3.0
"""How long a lost executor's requests wait for it before another one that is attached takes them."""

MAX_FRUITLESS_DEATHS = 5
"""A request whose executors died so often without one token from it in between is taken for the cause."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Where time comes from."""

    monotonic_s: Callable[[], float]
    unix_ms: Callable[[], float]


class Scheduler:
    """The truth about each request.

    Args:
        max_queue: Requests under way before new ones are refused.
        orphan_grace_s: How long requests wait for a consumer to come back.
        policy: Order of the queue.
        clock: Where time comes from.
        observer: Told of the turns in each request's life.
        program_limits: What programs may have.
    """

    def __init__(
        self,
        *,
        max_queue: int,
        orphan_grace_s: float,
        policy: AdmissionPolicy,
        clock: Clock,
        observer: Observer,
        program_limits: ProgramLimits | None = None,
    ) -> None:
        self.identity: ModelIdentity | None = None
        """The model, as the first executor named it."""
        self.observer = observer
        self.ledger = Ledger(max_queue)
        self.queue = WaitingQueue()
        self.consumers: set[Consumer] = set()
        self.executors: list[Executor] = []
        self.admission = Admission()
        self.timers = Timers()
        self.draining = False
        self._orphan_grace_s = orphan_grace_s
        self._policy = policy
        self._clock = clock
        self._recorder = Recorder(end=self._end, admission=self.admission, observer=observer, now_s=clock.monotonic_s)
        self._arrivals = count()
        self.programs = Programs(
            limits=program_limits or ProgramLimits(),
            timers=self.timers,
            now_s=clock.monotonic_s,
            arrive=lambda: next(self._arrivals),
            ended=self._on_program_ended,
            forgotten=self._on_prompt_forgotten,
        )
        self._orders = count()

    @property
    def ready(self) -> bool:
        """Whether requests can be served."""
        return not self.draining and any(executor.attached for executor in self.executors)

    @property
    def quiet(self) -> bool:
        """Whether all requests have ended and nothing waits to be sent to a consumer."""
        return self.ledger.num_under_way == 0 and not any(consumer.has_news for consumer in self.consumers)

    # Consumers

    def attach_consumer(self, consumer: Consumer) -> None:
        """A consumer's stream was opened. Raises MismatchError when it holds another model."""
        if consumer.identity is not None and self.identity is not None:
            check_same_model(self.identity, consumer.identity, peer=consumer.peer)
        self.consumers.add(consumer)

    def on_consumer_lost(self, consumer: Consumer) -> None:
        """A consumer's stream broke: its requests go on and wait for a resume."""
        self.consumers.discard(consumer)
        consumer.lose()
        if consumer.records:
            logger.info("%s left, %d requests wait for it", consumer.peer, len(consumer.records))
            self.timers.at(self._clock.monotonic_s() + self._orphan_grace_s, partial(self._on_grace_over, consumer))

    def on_submit(self, consumer: Consumer, submission: Submission) -> None:
        """Accept or refuse a client call. Requests that are known already are resumed from the start."""
        records = self.ledger.records
        for request in submission.requests:
            if request in records:
                self._give(records[request], consumer, 0)
        fresh = [(i, request) for i, request in enumerate(submission.requests) if request not in records]
        refusal = self._take(consumer, submission, fresh) if fresh else None
        if refusal is not None:
            self.observer.refused(refusal)
            for _, request in fresh:
                consumer.fail(replace(refusal, request=request))
        consumer.wake()
        self._dispatch()

    def on_resume(self, consumer: Consumer, request: int, position: int) -> None:
        """Go on with a request for a consumer, from a position; it belongs to that consumer from now on."""
        record = self.ledger.records.get(request)
        if record is None:
            consumer.fail(failures.unknown(request))
        elif position > len(record.tokens) and not record.ended:
            consumer.fail(failures.ahead(request, position, len(record.tokens)))
        else:
            # A record that was cut at a stop string may be shorter than what its consumer has seen.
            self._give(record, consumer, min(position, len(record.tokens)))
        consumer.wake()

    def on_cancel(self, consumer: Consumer, request: int) -> None:
        """End a request that nobody wants any more, and forget it."""
        record = self._owned(consumer, request)
        if record is not None:
            self._abandon(record)
            self._dispatch()

    def on_stopped(self, consumer: Consumer, request: int, length: int) -> None:
        """A stop string ends a request's text; its first `length` tokens count."""
        record = self._owned(consumer, request)
        if record is None:
            return
        del record.tokens[length:]
        if record.logprobs is not None:
            del record.logprobs[length:]
        if record.ended:
            record.finish, record.failure = FinishReason.STOP_STRING, None
            return
        self.admission.note_end(record)
        self._end(record, FinishReason.STOP_STRING, announce=False)
        self._dispatch()

    def on_released(self, consumer: Consumer, request: int) -> None:
        """The client has everything of a request: forget it."""
        record = self._owned(consumer, request)
        if record is not None:
            self._abandon(record)

    def _owned(self, consumer: Consumer, request: int) -> RequestRecord | None:
        record = self.ledger.records.get(request)
        # A consumer that another one has taken the request over from has no say in it any more.
        if record is None or (record.consumer is not consumer and record.consumer.live):
            return None
        return record

    def _give(self, record: RequestRecord, consumer: Consumer, position: int) -> None:
        if record.consumer is not consumer:
            record.consumer.forget(record)
            record.consumer = consumer
            consumer.records[record.request] = record
        consumer.resume(record, position)

    def _take(self, consumer: Consumer, submission: Submission, fresh: list[tuple[int, int]]) -> RequestFailure | None:
        """Accept a call's requests that are not known yet, or say why not."""
        program, prompt = None, None
        if submission.base is not None:
            try:
                program, state = self.programs.find(submission.base)
            except NotFoundError as error:
                return failures.no_such_state(0, str(error))
            prompt = state.tokens.prompt(tuple(submission.prompt))
            submission = replace(submission, prompt=prompt.tokens, cache_namespace=program.cache_namespace)
        refusal = self._refusal(submission, len(fresh))
        if refusal is None:
            self._accept(consumer, submission, fresh, program, prompt)
        return refusal

    def _refusal(self, submission: Submission, num_requests: int) -> RequestFailure | None:
        max_queue, under_way = self.ledger.max_queue, self.ledger.num_under_way
        if self.draining:
            return failures.draining(0)
        if not submission.prompt:
            return failures.invalid(0, "prompt is empty: at least one token is needed")
        if len(set(submission.requests)) != len(submission.requests):
            return failures.invalid(0, "requests holds an id twice: ids must be distinct")
        if num_requests > max_queue:
            return failures.invalid(0, f"{num_requests} siblings: max_queue is {max_queue}, so no more can ever run")
        if self.identity is not None and (failure := _misfit(0, submission, self.identity)) is not None:
            return failure
        if submission.deadline_unix_ms and submission.deadline_unix_ms <= self._clock.unix_ms():
            return failures.deadline_passed(0)
        if under_way + num_requests > max_queue:
            excess = under_way + num_requests - max_queue
            retry_after_s = self.ledger.retry_after_s(excess, self._clock.monotonic_s())
            return failures.queue_full(0, under_way, max_queue, retry_after_s)
        return None

    def _accept(
        self,
        consumer: Consumer,
        submission: Submission,
        fresh: list[tuple[int, int]],
        program: Program | None,
        prompt: SharedPrompt | None,
    ) -> None:
        now_s, arrival = self._clock.monotonic_s(), next(self._arrivals)
        records = [
            RequestRecord(
                request=request,
                submission=submission,
                index=index,
                consumer=consumer,
                sink=consumer,
                arrival=arrival,
                submitted_s=now_s,
                program=program,
                prompt=prompt,
                logprobs=None if submission.sampling.top_logprobs is None else [],
            )
            for index, request in fresh
        ]
        for record in records:
            self.ledger.add(record)
            if program is not None:
                program.requests[record] = None
            if submission.deadline_unix_ms:
                left_s = (submission.deadline_unix_ms - self._clock.unix_ms()) / 1000
                record.deadline = self.timers.at(now_s + left_s, partial(self._on_deadline, record))
            self.observer.queued(record)
        self.queue.add(Waiting.of(records))

    # Programs

    def change_program(self, change: ProgramChange) -> list[StateAnswer]:
        """Open, change or close a program.

        Raises:
            BoughError: As `Programs.change`.
            UnavailableError: A drain lets no new one in.
        """
        if self.draining and change.lease_s is not None and change.program not in self.programs:
            raise UnavailableError("the scheduler is shutting down")
        return self.programs.change(change)

    def _on_program_ended(self, program: Program) -> None:
        for record in list(program.requests):
            self._end(record, FinishReason.CANCELLED)
        self._dispatch()

    def _on_prompt_forgotten(self, prompt: SharedPrompt) -> None:
        for executor in self.executors:
            executor.release_base(prompt)

    # Executors

    def add_executor(self, name: str, wake: Callable[[], None]) -> Executor:
        """An executor became known; it can be used once it attaches."""
        executor = Executor(name, wake)
        self.executors.append(executor)
        return executor

    def remove_executor(self, executor: Executor) -> None:
        """An executor is gone for good."""
        executor.attached = False
        self.executors.remove(executor)
        self._requeue(executor.take_back(), died=False)
        self._dispatch()

    def on_executor_attached(self, executor: Executor, attachment: Attachment) -> None:
        """An executor answered a new stream. Raises MismatchError when it holds another model than the others."""
        if self.identity is None:
            self._learn_identity(attachment.identity)
        else:
            check_same_model(self.identity, attachment.identity, peer=f"executor {executor.name}")
        executor.attached, executor.lost_at_s = True, None
        executor.capacity, executor.takes_bases = attachment.capacity, attachment.takes_bases
        executor.mirror.clear()
        if executor.epoch != attachment.epoch:
            executor.epoch, executor.gauges = attachment.epoch, None
            self._requeue(executor.take_back(), died=True)
        else:
            for record in list(executor.assigned.values()):
                if record.request not in attachment.running:
                    executor.repeat(record)
        self._rescue()
        self._dispatch()

    def on_executor_lost(self, executor: Executor) -> None:
        """An executor's stream broke; its requests wait for it, or for another one after a while."""
        executor.attached = False
        executor.lost_at_s = self._clock.monotonic_s()
        self.timers.at(executor.lost_at_s + EXECUTOR_GRACE_S, self._rescue)

    def _learn_identity(self, identity: ModelIdentity) -> None:
        self.identity = self.programs.identity = identity
        for consumer in list(self.consumers):
            try:
                self.attach_consumer(consumer)
            except MismatchError as error:
                consumer.cut(error)
        for entry in list(self.queue):
            for record in list(entry.records):
                if (failure := _misfit(record.request, entry.submission, identity)) is not None:
                    self._end(record, FinishReason.ERROR, failure=failure)

    def _rescue(self) -> None:
        if not any(executor.attached for executor in self.executors):
            return
        latest_s = self._clock.monotonic_s() - EXECUTOR_GRACE_S
        for executor in self.executors:
            if executor.assigned and executor.lost_at_s is not None and executor.lost_at_s <= latest_s:
                logger.warning("executor %s stays away, its %d requests move", executor.name, len(executor.assigned))
                self._requeue(executor.take_back(), died=False)
        self._dispatch()

    def _requeue(self, records: Iterable[RequestRecord], *, died: bool) -> None:
        groups: dict[int, list[RequestRecord]] = {}
        for record in sorted(records, key=lambda r: (r.arrival, r.index)):
            record.fruitless_deaths += died
            if record.fruitless_deaths > MAX_FRUITLESS_DEATHS:
                self._end(record, FinishReason.ERROR, failure=failures.executors_died(record.request))
                continue
            record.state = RequestState.QUEUED
            self.observer.moved(record)
            if record.tokens:
                self.queue.add(Waiting.of([record]))
            else:
                groups.setdefault(record.arrival, []).append(record)
        for group in groups.values():
            self.queue.add(Waiting.of(group))

    # Steps

    def on_step(self, executor: Executor, report: StepReport) -> None:
        """Record what an executor produced, then pass it on. Raises UnavailableError when tokens are missing."""
        if report.cache is not None:
            change = report.cache
            executor.mirror.apply(stored=change.stored, removed=change.removed, cleared=change.cleared)
        if report.gauges is not None:
            executor.note_gauges(report.gauges)
        try:
            self._recorder.record(executor, report)
        finally:
            for consumer in self.consumers:
                if consumer.has_news:
                    consumer.wake()
        if len(self.queue):
            self._dispatch()

    # Admission

    def _dispatch(self) -> None:
        self._place_waiting()
        for executor in self.executors:
            executor.note_queue(len(self.queue))

    def _place_waiting(self) -> None:
        while len(self.queue):
            ready = [executor for executor in self.executors if self.admission.has_room(executor)]
            if not ready:
                return
            entry = self._policy.pick(self.queue, ready)
            executor = max(ready, key=lambda e: (entry.cached_tokens(e), -len(e.assigned)))
            # Whoever does not fit is waited for: passing it over would let small requests keep a large one out.
            if not self.admission.fits(executor, entry):
                return
            self._policy.placed(entry, self.queue)
            self.queue.remove(entry)
            self._admit(entry, executor)

    def _admit(self, entry: Waiting, executor: Executor) -> None:
        order, now_s = next(self._orders), self._clock.monotonic_s()
        cached_tokens = entry.cached_tokens(executor)
        for place, record in enumerate(entry.records):
            record.state = RequestState.ADMITTED
            if record.order is None:
                record.order, record.admitted_s = order, now_s
                self.observer.admitted(record)
            # Siblings wait for the first one's prompt instead of computing it again.
            executor.assign(record, 1 if place else max(1, record.num_tokens - cached_tokens))

    # Ends

    def _end(
        self,
        record: RequestRecord,
        finish: FinishReason,
        *,
        failure: RequestFailure | None = None,
        by_executor: bool = False,
        announce: bool = True,
    ) -> None:
        if record.state is RequestState.QUEUED and record.waiting is not None:
            self.queue.discard(record)
        elif record.executor is not None:
            (record.executor.release if by_executor else record.executor.cancel)(record)
        record.state, record.finish, record.failure = RequestState.ENDED, finish, failure
        if record.deadline is not None:
            self.timers.cancel(record.deadline)
            record.deadline = None
        if record.program is not None:
            del record.program.requests[record]
        if failure is not None:
            logger.warning("%s", failure.message, extra=request_extra(record.submission.name))
        sink = record.sink
        if sink is not None and announce:
            sink.pending.tokens.append_row(TokenRow(record.request, len(record.tokens), [], finish))
            if failure is not None:
                sink.fail(failure)
            sink.wake()
        now_s = self._clock.monotonic_s()
        self.observer.ended(record, now_s)
        self.ledger.note_end(record, now_s)

    def _abandon(self, record: RequestRecord) -> None:
        if not record.ended:
            self._end(record, FinishReason.CANCELLED, announce=False)
        self.ledger.forget(record)

    # Time

    def tick(self) -> None:
        """Do what is due; to be called at `timers.next_s()`."""
        self.timers.run_due(self._clock.monotonic_s())

    def _on_deadline(self, record: RequestRecord) -> None:
        record.deadline = None
        if not record.ended:
            self._end(record, FinishReason.CANCELLED, failure=failures.deadline_passed(record.request))
            self._dispatch()

    def _on_grace_over(self, consumer: Consumer) -> None:
        if consumer.records:
            logger.info("%s did not come back, %d requests are dropped", consumer.peer, len(consumer.records))
        for record in list(consumer.records.values()):
            self._abandon(record)
        self._dispatch()


def _misfit(request: int, submission: Submission, identity: ModelIdentity) -> RequestFailure | None:
    """Why a model cannot take a prompt, if it cannot."""
    num_tokens, num_forced = len(submission.prompt), len(submission.sampling.forced_ids)
    if num_tokens >= identity.max_context:
        return failures.prompt_too_long(request, num_tokens, identity.max_context)
    if num_tokens + num_forced > identity.max_context:
        return failures.output_too_long(request, num_tokens, num_forced, identity.max_context)
    return None
