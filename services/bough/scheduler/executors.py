"""What the scheduler keeps of an executor: what fits, what it was given, and the orders that wait to be sent."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from bough.common.columns import TokenBatch
from bough.common.model import ModelIdentity
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest
from bough.common.sampling import SamplingParams
from bough.common.telemetry import traceparent_of
from bough.scheduler.bases import KnownBases, NewBase
from bough.scheduler.mirror import PrefixMirror
from bough.scheduler.prompts import SharedPrompt
from bough.scheduler.requests import RequestRecord

_QUEUE_STEP = 8
"""An executor is told of a queue anew when it has grown or shrunk by about so many requests."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What an executor can hold, measured at its start."""

    num_pages: int
    page_size: int
    max_rows: int
    token_budget: int
    """Tokens computed in one step at most."""

    def pages_for(self, num_tokens: int) -> int:
        """Pages that hold so many tokens of one request."""
        return -(-num_tokens // self.page_size)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """An executor's state after a step."""

    running: int
    waiting: int
    """Admitted and not running yet."""
    pages_used: int
    """Held by running requests."""
    pages_cached: int
    """Held by the prefix cache alone; given up when needed."""
    pages_free: int
    step_us: int
    prefill_tokens: int = 0
    """Prompt tokens computed since the executor's start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """How an executor answers a new stream."""

    epoch: int
    identity: ModelIdentity
    capacity: Capacity
    running: frozenset[int]
    """Requests that it holds."""
    takes_bases: bool = False
    """Whether orders may name bases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheChange:
    """Pages that came into an executor's prefix cache or left it, by their hashes on the wire."""

    stored: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    cleared: bool = False


@dataclass(slots=True, kw_only=True)
class StepReport:
    """What an executor says after a step."""

    step: int = 0
    """0 for a message that follows no step."""
    tokens: TokenBatch = field(default_factory=TokenBatch)
    started: list[StartedRequest] = field(default_factory=list)
    retracted: list[int] = field(default_factory=list)
    failures: list[RequestFailure] = field(default_factory=list)
    without_base: list[int] = field(default_factory=list)
    """Requests that were not taken, since they name a base that it does not know."""
    cache: CacheChange | None = None
    gauges: Gauges | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdmitOrder:
    """Requests to run that share a prompt; the i-th one samples with seed + i."""

    requests: tuple[int, ...]
    base: int = 0
    """What the prompt begins with; 0 for nothing."""
    prompt: Sequence[int]
    """What follows the base."""
    produced: tuple[int, ...]
    sampling: SamplingParams
    cache_namespace: bytes
    order: int
    traceparent: str


@dataclass(slots=True, kw_only=True)
class Orders:
    """One message to an executor."""

    bases: list[NewBase] = field(default_factory=list)
    released_bases: list[int] = field(default_factory=list)
    admits: list[AdmitOrder] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    queued: int | None = None
    """Requests that wait for a place; None for no change."""


@dataclass(slots=True)
class _Given:
    """What a request brought to compute, and what of it is left."""

    tokens: int
    left: int


class PrefillBacklog:
    """Tokens that an executor was given and has not computed yet.

    Its reports say how many prompt tokens it computed, not whose; they are taken to be those of the requests that were
    given first, until one of them begins.
    """

    def __init__(self) -> None:
        self._given: dict[RequestRecord, _Given] = {}
        self.num_tokens = 0
        self.num_waiting_tokens = 0
        """Of requests of which nothing is computed: they have no pages yet."""

    def __len__(self) -> int:
        return len(self._given)

    def __contains__(self, record: RequestRecord) -> bool:
        return record in self._given

    def add(self, record: RequestRecord, num_tokens: int) -> None:
        """A request was given with so many tokens to compute."""
        self.discard(record)
        given = self._given[record] = _Given(num_tokens, num_tokens)
        self._change(given, 0, num_tokens)

    def begin(self, record: RequestRecord) -> None:
        """A request's first token came: what was not put down to it is taken back from the others."""
        if record not in self._given:
            return  # each further token
        surplus = self.discard(record)
        for given in self._given.values():
            if not surplus:
                return
            back = min(surplus, given.tokens - given.left)
            if back:
                self._change(given, given.left, given.left + back)
                surplus -= back

    def discard(self, record: RequestRecord) -> int:
        """A request has left; returns its tokens that were not computed yet."""
        given = self._given.pop(record, None)
        if given is None:
            return 0
        left = given.left
        self._change(given, left, 0)
        return left

    def spend(self, num_tokens: int) -> None:
        """So many prompt tokens were computed."""
        for given in self._given.values():
            if num_tokens <= 0:
                return
            done = min(given.left, num_tokens)
            if done:
                self._change(given, given.left, given.left - done)
                num_tokens -= done

    def _change(self, given: _Given, before: int, after: int) -> None:
        given.left = after
        self.num_tokens += after - before
        self.num_waiting_tokens += given.tokens * ((after == given.tokens) - (before == given.tokens))


class Executor:
    """One executor as the scheduler sees it. Outlives its streams and its process.

    Args:
        name: Its address, for logs.
        wake: Called when there are orders to collect.
    """

    def __init__(self, name: str, wake: Callable[[], None]) -> None:
        self.name = name
        self.wake = wake
        self.attached = False
        self.lost_at_s: float | None = None
        """Since when it cannot be reached, None while attached or never seen."""
        self.epoch = 0
        self.capacity: Capacity | None = None
        self.gauges: Gauges | None = None
        self.mirror = PrefixMirror()
        self.assigned: dict[int, RequestRecord] = {}
        """What it was given and has not ended."""
        self.backlog = PrefillBacklog()
        self.bases = KnownBases()
        self.takes_bases = False
        self._unsent: dict[RequestRecord, None] = {}
        self._cancels: list[int] = []
        self._acknowledge = False
        self._queued = 0
        self._queue_changed = False

    def note_queue(self, length: int) -> None:
        """So many requests wait for a place; it is told when that has changed much."""
        if length // _QUEUE_STEP != self._queued // _QUEUE_STEP:
            self._queued = length
            self._queue_changed = True
            self.wake()

    def note_gauges(self, gauges: Gauges) -> None:
        """The state it reports, and what it has computed since the last report of this epoch."""
        if self.gauges is not None:
            self.backlog.spend(gauges.prefill_tokens - self.gauges.prefill_tokens)
        self.gauges = gauges

    def assign(self, record: RequestRecord, num_tokens: int) -> None:
        """Give it a request of which about `num_tokens` tokens must be computed before the next one is produced."""
        record.executor = self
        self.assigned[record.request] = record
        self.backlog.add(record, num_tokens)
        self._unsent[record] = None
        self.wake()

    def repeat(self, record: RequestRecord) -> None:
        """Send an assigned request again: the stream broke and the executor does not name it."""
        record.readmitted = True
        self._unsent[record] = None
        self.wake()

    def order_whole(self, record: RequestRecord) -> None:
        """Send an assigned request again without a base: it did not know the one that was named, nor perhaps others."""
        self.bases.release_all()
        record.orders_whole_prompt = True
        self._unsent[record] = None
        self.wake()

    def release_base(self, prompt: SharedPrompt) -> None:
        """No further request begins with a prompt."""
        if self.bases.release(prompt):
            self.wake()

    def release(self, record: RequestRecord) -> None:
        """It ended a request by itself."""
        if record.readmitted:
            # It may have both delivered what it kept from the broken stream and begun again.
            self.cancel(record)
            return
        self._drop(record)
        self._acknowledge = True
        self.wake()

    def cancel(self, record: RequestRecord) -> None:
        """Have it end a request."""
        if record in self._unsent and not record.readmitted:
            del self._unsent[record]
        else:
            self._unsent.pop(record, None)
            self._cancels.append(record.request)
            self.wake()
        self._drop(record)

    def take_back(self) -> list[RequestRecord]:
        """All its requests, to be run elsewhere or after its restart; it keeps none."""
        records = list(self.assigned.values())
        for record in records:
            self._unsent.pop(record, None)
            self._drop(record)
        return records

    def resumes(self) -> list[ResumePoint]:
        """What a new stream opens with. Orders not sent are dropped: the answer to the resumes replaces them."""
        self._unsent.clear()
        self._cancels.clear()
        self._queue_changed = self._queued > 0
        self.bases.clear()
        self.takes_bases = False  # until it says so
        return [ResumePoint(r.request, len(r.tokens)) for r in self.assigned.values()]

    def collect(self) -> Orders | None:
        """Orders for the next message; None when there is nothing to say. Empty ones acknowledge ends."""
        if not (self._unsent or self._cancels or self._acknowledge or self._queue_changed or self.bases.has_news):
            return None
        admits = admit_orders(list(self._unsent), self.bases if self.takes_bases else None)
        bases, released_bases = self.bases.collect()
        orders = Orders(
            bases=bases,
            released_bases=released_bases,
            admits=admits,
            cancels=self._cancels,
            queued=self._queued if self._queue_changed else None,
        )
        self._unsent, self._cancels, self._acknowledge, self._queue_changed = {}, [], False, False
        return orders

    def _drop(self, record: RequestRecord) -> None:
        del self.assigned[record.request]
        self.backlog.discard(record)
        record.executor = None
        record.readmitted = False
        record.orders_whole_prompt = False
        record.steady = False


def admit_orders(records: list[RequestRecord], bases: KnownBases | None = None) -> list[AdmitOrder]:
    """Orders for records that are given at once.

    Siblings travel together with their prompt, as long as their numbers follow one another: the executor derives the
    seed from the place in the order. One that has produced tokens travels alone.

    Args:
        records: To be given.
        bases: What orders may name in place of tokens; gets what is worth it. None where that is nothing.
    """
    groups: list[list[RequestRecord]] = []
    for record in records:
        last = groups[-1][-1] if groups else None
        if (
            last is not None
            and last.submission is record.submission
            and last.order == record.order
            and last.index + 1 == record.index
            and not last.tokens
            and not record.tokens
        ):
            groups[-1].append(record)
        else:
            groups.append([record])
    return [_admit_order(group, bases) for group in groups]


def _admit_order(records: list[RequestRecord], bases: KnownBases | None) -> AdmitOrder:
    first = records[0]
    assert first.order is not None
    base, num_tokens = 0, 0
    if bases is not None and first.prompt is not None and not first.orders_whole_prompt:
        base, num_tokens = bases.find(first.prompt, first.submission.cache_namespace)
    return AdmitOrder(
        requests=tuple(r.request for r in records),
        base=base,
        prompt=first.submission.prompt[num_tokens:],
        produced=tuple(first.tokens),
        sampling=sampling_of(first),
        cache_namespace=first.submission.cache_namespace,
        order=first.order,
        traceparent=first.submission.traceparent if first.span is None else traceparent_of(first.span),
    )


def sampling_of(record: RequestRecord) -> SamplingParams:
    """A sibling's own parameters: the submission's with its own seed."""
    sampling = record.submission.sampling
    if record.index == 0:
        return sampling
    return replace(sampling, seed=(sampling.seed + record.index) & 0xFFFF_FFFF_FFFF_FFFF)
