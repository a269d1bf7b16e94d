"""An executor and a consumer for tests of the core: no sockets, and tokens that are a function of what was asked."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from bough.common.columns import TokenRow
from bough.common.errors import BoughError
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, Submission
from bough.common.sampling import FinishReason, SamplingParams
from bough.scheduler.consumers import Consumer, ConsumerUpdate
from bough.scheduler.core import Clock, Scheduler
from bough.scheduler.executors import AdmitOrder, Attachment, Capacity, Executor, Gauges, Orders, StepReport
from bough.scheduler.observer import Observer
from bough.scheduler.policy import AdmissionPolicy, FirstComeFirstServed
from bough.scheduler.program_orders import ProgramChange, StateAnswer, StateOrder
from bough.scheduler.programs import ProgramLimits

IDENTITY = ModelIdentity(model="tiny", revision="0123", vocab_hash=b"v" * 32, vocab_size=1000, max_context=512)
CAPACITY = Capacity(num_pages=64, page_size=4, max_rows=4, token_budget=64)
PROGRAM = b"p" * 16


def token_at(prompt: Sequence[int], seed: int, position: int) -> int:
    """What the pretended model says."""
    key = repr((tuple(prompt), seed % 2**64, position)).encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=2).digest(), "little") % IDENTITY.vocab_size


def expected_tokens(submission: Submission, index: int = 0) -> list[int]:
    """The output of a sibling that is left alone."""
    sampling = submission.sampling
    return [token_at(submission.prompt, sampling.seed + index, p) for p in range(sampling.max_tokens)]


def submission(*requests: int, prompt: tuple[int, ...] = (1, 2, 3), max_tokens: int = 5, seed: int = 7) -> Submission:
    """A client call."""
    return Submission(requests=requests, prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens, seed=seed))


@dataclass(slots=True)
class Row:
    """A request inside the pretended executor."""

    order: AdmitOrder
    seed: int
    tokens: list[int]
    fresh: bool = True

    @property
    def ended(self) -> bool:
        return len(self.tokens) >= self.order.sampling.max_tokens


@dataclass(slots=True)
class SimulatedExecutor:
    """What an executor process does with orders. Ended requests are kept until `acknowledge`."""

    epoch: int = 1
    capacity: Capacity = CAPACITY
    rows: dict[int, Row] = field(default_factory=dict)
    kept: dict[int, Row] = field(default_factory=dict)
    admitted: list[AdmitOrder] = field(default_factory=list)
    """Orders as they came."""
    bases: dict[int, tuple[bytes, tuple[int, ...]]] = field(default_factory=dict)
    """Number -> (namespace, tokens)."""
    without_base: list[int] = field(default_factory=list)
    """Requests to report that name a base which is not known."""
    steps: int = 0

    def attach(self, resumes: list[ResumePoint]) -> tuple[Attachment, StepReport]:
        """Answer a new stream: forget what is not named, say again what is missing there."""
        self.bases.clear()
        self.without_base.clear()
        held = self.rows | self.kept
        named = {point.request: point.position for point in resumes}
        for request in held.keys() - named.keys():
            self.rows.pop(request, None)
            self.kept.pop(request, None)
        report = StepReport()
        for request, position in named.items():
            if (row := held.get(request)) is not None:
                finish = FinishReason.LENGTH if request in self.kept else FinishReason.NONE
                report.tokens.append_row(TokenRow(request, position, row.tokens[position:], finish))
        running = frozenset(held.keys() & named.keys())
        attachment = Attachment(
            epoch=self.epoch, identity=IDENTITY, capacity=self.capacity, running=running, takes_bases=True
        )
        return attachment, report

    def apply(self, orders: Orders) -> None:
        """Take orders."""
        for base in orders.bases:
            assert base.id not in self.bases
            namespace, before = self.bases.get(base.parent, (base.cache_namespace, ()))
            if namespace == base.cache_namespace and (base.parent in self.bases or not base.parent):
                self.bases[base.id] = (namespace, (*before, *base.tokens))
        for order in orders.admits:
            self.admitted.append(order)
            self._admit(order)
        for number in orders.released_bases:
            self.bases.pop(number, None)
        for request in orders.cancels:
            self.rows.pop(request, None)
            self.kept.pop(request, None)

    def _admit(self, order: AdmitOrder) -> None:
        assert order.prompt
        fresh = [request for request in order.requests if request not in self.rows and request not in self.kept]
        if order.base:
            namespace, before = self.bases.get(order.base, (b"", ()))
            if not before or namespace != order.cache_namespace:
                self.without_base += fresh
                return
            order = replace(order, base=0, prompt=(*before, *order.prompt))
        for index, request in enumerate(order.requests):
            if request in fresh:
                self.rows[request] = Row(order, order.sampling.seed + index, list(order.produced))

    def step(self) -> StepReport:
        """One token for as many requests as there are rows."""
        self.steps += 1
        report = StepReport(step=self.steps, without_base=self.without_base)
        self.without_base = []
        for request, row in list(self.rows.items())[: self.capacity.max_rows]:
            position = len(row.tokens)
            row.tokens.append(token_at(row.order.prompt, row.seed, position))
            if row.fresh:
                row.fresh = False
                report.started.append(StartedRequest(request, 0))
            finish = FinishReason.LENGTH if row.ended else FinishReason.NONE
            report.tokens.append_row(TokenRow(request, position, row.tokens[position:], finish))
            if row.ended:
                self.kept[request] = self.rows.pop(request)
        report.gauges = self.gauges()
        return report

    def gauges(self) -> Gauges:
        """State after a step."""
        running = list(self.rows.values())[: self.capacity.max_rows]
        used = sum(self.capacity.pages_for(len(row.order.prompt) + len(row.tokens)) for row in running)
        return Gauges(
            running=len(running),
            waiting=len(self.rows) - len(running),
            pages_used=used,
            pages_cached=0,
            pages_free=max(0, self.capacity.num_pages - used),
            step_us=100,
        )


@dataclass(slots=True)
class Inbox:
    """What a consumer received of its requests; checks positions as it goes."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    finish: dict[int, FinishReason] = field(default_factory=dict)
    failures: list[RequestFailure] = field(default_factory=list)
    started: list[StartedRequest] = field(default_factory=list)
    resumed: list[int] = field(default_factory=list)
    ends: dict[int, int] = field(default_factory=dict)
    """How many ends came for each request, those after a resume counted anew."""

    def take(self, update: ConsumerUpdate | None) -> None:
        """Deal with one message."""
        if update is None:
            return
        self.failures += update.failures
        self.started += update.started
        for resumed in update.resumed:
            self.resumed.append(resumed.request)
            self.ends.pop(resumed.request, None)
        for row in update.tokens.rows():
            known = self.tokens.setdefault(row.request, [])
            assert row.position <= len(known), f"gap at {row.request}: {row.position} after {len(known)}"
            known += row.tokens[len(known) - row.position :]
            if row.finish:
                self.finish[row.request] = row.finish
                self.ends[row.request] = self.ends.get(row.request, 0) + 1


@dataclass(slots=True)
class Time:
    """A clock that moves when told."""

    now_s: float = 1000.0

    def clock(self) -> Clock:
        return Clock(monotonic_s=lambda: self.now_s, unix_ms=lambda: self.now_s * 1000)


class World:
    """A core with one consumer at a time and simulated executors."""

    def __init__(
        self,
        *,
        policy: AdmissionPolicy | None = None,
        max_queue: int = 64,
        capacity: Capacity = CAPACITY,
        attached: bool = True,
        observer: Observer | None = None,
        program_limits: ProgramLimits | None = None,
    ) -> None:
        self.time = Time()
        self.core = Scheduler(
            max_queue=max_queue,
            orphan_grace_s=10.0,
            policy=policy or FirstComeFirstServed(),
            clock=self.time.clock(),
            observer=observer or Observer(),
            program_limits=program_limits,
        )
        self.executor = self.core.add_executor("executor-0", lambda: None)
        self.process = SimulatedExecutor(capacity=capacity)
        self.cuts: list[BoughError] = []
        self.inbox = Inbox()
        self.consumer = self.new_consumer()
        if attached:
            self.attach()

    def new_consumer(self, identity: ModelIdentity | None = None) -> Consumer:
        """Open another consumer's stream."""
        consumer = Consumer("detokenizer", wake=lambda: None, cut=self.cuts.append, identity=identity)
        self.core.attach_consumer(consumer)
        return consumer

    def attach(self, executor: Executor | None = None, process: SimulatedExecutor | None = None) -> None:
        """Open the executor's stream."""
        executor, process = executor or self.executor, process or self.process
        attachment, report = process.attach(executor.resumes())
        self.core.on_executor_attached(executor, attachment)
        self.core.on_step(executor, report)

    def restart(self) -> None:
        """The executor's process is killed and comes back with nothing."""
        self.core.on_executor_lost(self.executor)
        old = self.process
        self.process = SimulatedExecutor(epoch=old.epoch + 1, capacity=old.capacity)
        self.attach()

    def submit(self, call: Submission, consumer: Consumer | None = None) -> Submission:
        """A client call arrives."""
        self.core.on_submit(consumer or self.consumer, call)
        return call

    def change(
        self, *orders: StateOrder, program: bytes = PROGRAM, lease_s: int | None = 60, close: bool = False
    ) -> list[StateAnswer]:
        """Orders for a program arrive; it is opened where it is not known, unless `lease_s` is None."""
        change = ProgramChange(program=program, lease_s=lease_s, cache_namespace=b"salt", orders=orders, close=close)
        return self.core.change_program(change)

    def orders(self) -> Orders:
        """Deliver what waits for the executor."""
        orders = self.executor.collect() or Orders()
        self.process.apply(orders)
        return orders

    def step(self, count: int = 1) -> None:
        """Deliver orders, step, deliver the report and what it gives the consumer."""
        for _ in range(count):
            self.orders()
            self.core.on_step(self.executor, self.process.step())
            self.receive()

    def receive(self) -> None:
        """Deliver what waits for the consumer."""
        while (update := self.consumer.collect()) is not None:
            self.inbox.take(update)

    def run(self, limit: int = 500) -> None:
        """Step until nothing is under way."""
        while self.core.ledger.num_under_way:
            limit -= 1
            assert limit, "requests do not end"
            self.step()

    def pass_time(self, seconds: float) -> None:
        """Let time pass and do what is due."""
        self.time.now_s += seconds
        self.core.tick()

    def assert_empty(self) -> None:
        """Nothing is left of any request."""
        core = self.core
        assert not core.ledger.records
        assert core.ledger.num_under_way == 0
        assert len(core.queue) == 0
        assert core.queue.num_records == 0
        assert (len(core.programs), core.programs.num_states, core.programs.num_tokens) == (0, 0, 0)
        for executor in core.executors:
            assert not executor.assigned
            assert len(executor.backlog) == 0
            assert executor.backlog.num_tokens == 0
        for consumer in core.consumers:
            assert not consumer.records


def with_deadline(call: Submission, unix_ms: float) -> Submission:
    """The same call with a deadline."""
    return replace(call, deadline_unix_ms=int(unix_ms))
