"""The run log: whatever happens to streams, the scheduler hears of each token once, in order, and of each end."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bough.common.columns import TokenRow
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest
from bough.common.sampling import FinishReason, TokenLogprobs
from bough.executor.orders import Refusal, StepReport
from bough.executor.run_log import RunLog
from tests.helpers.engines import admission


def admitted(*requests: int, top_logprobs: int | None = None, attached: bool = True) -> RunLog:
    log = RunLog()
    if attached:
        log.attach([])
        log.collect(1)
    for request in requests:
        assert log.admit(admission(request, [1], top_logprobs=top_logprobs), number=1)
    return log


def report(*rows: TokenRow, applied: int = 1, step: int = 1) -> StepReport:
    made = StepReport(step=step, applied=applied)
    for row in rows:
        made.tokens.append_row(row)
    return made


def collected(log: RunLog, number: int = 2) -> StepReport:
    news = log.collect(number)
    assert news is not None
    return news


def test_there_is_no_news_before_something_happened() -> None:
    assert admitted(1).collect(2) is None


def test_reports_between_two_messages_become_one() -> None:
    log = admitted(1, 2)
    log.on_report(report(TokenRow(1, 0, [10]), TokenRow(2, 0, [20])))
    log.on_report(report(TokenRow(1, 1, [11]), step=2))
    news = collected(log)
    assert news.step == 2
    assert [(r.request, r.position, r.tokens) for r in news.tokens.rows()] == [(1, 0, [10]), (2, 0, [20]), (1, 1, [11])]
    assert log.collect(3) is None


def test_a_request_that_is_here_is_not_admitted_again() -> None:
    log = admitted(1)
    assert not log.admit(admission(1, [1]), number=2)


def test_nothing_is_said_of_a_cancelled_request() -> None:
    log = admitted(1, 2)
    log.cancel([1, 77])
    made = report(TokenRow(1, 0, [10]), TokenRow(2, 0, [20]))
    made.started = [StartedRequest(1, 0), StartedRequest(2, 0)]
    made.retracted = [1, 2]
    made.failures = [RequestFailure(1, 3, "late")]
    log.on_report(made)
    news = collected(log)
    assert [row.request for row in news.tokens.rows()] == [2]
    assert (news.started, news.retracted, news.failures) == ([StartedRequest(2, 0)], [2], [])
    assert log.requests == [2]


def test_late_reports_of_an_earlier_stay_are_not_taken_for_the_new_one() -> None:
    log = admitted(1)
    log.on_report(report(TokenRow(1, 0, [10])))
    log.cancel([1])
    assert log.admit(admission(1, [1], produced=[10]), number=2)
    late = report(TokenRow(1, 1, [99], FinishReason.ERROR), applied=1)
    late.failures = [RequestFailure(1, 3, "late")]
    log.on_report(late)
    log.on_report(report(TokenRow(1, 1, [11]), applied=2))
    log.attach([ResumePoint(1, 1)])
    news = collected(log)
    assert [(r.position, r.tokens, r.finish) for r in news.tokens.rows()] == [(1, [11], FinishReason.NONE)]
    assert not news.failures


def test_a_new_stream_hears_again_what_it_has_not_recorded() -> None:
    log = admitted(1, 2, 3, top_logprobs=0)
    entries = [TokenLogprobs(logprob=-float(i), rank=1) for i in range(3)]
    made = report(
        TokenRow(1, 0, [10, 11, 12], FinishReason.STOP, entries),
        TokenRow(2, 0, [], FinishReason.ERROR),
        TokenRow(3, 0, [30], FinishReason.NONE, entries[:1]),
    )
    made.started = [StartedRequest(1, 5)]
    made.failures = [RequestFailure(2, 13, "broken")]
    log.on_report(made)
    collected(log)
    log.detach()
    assert log.attach([ResumePoint(1, 1), ResumePoint(2, 0), ResumePoint(3, 1), ResumePoint(99, 0)]) == []
    news = collected(log)
    assert list(news.tokens.rows()) == [
        TokenRow(1, 1, [11, 12], FinishReason.STOP, entries[1:]),
        TokenRow(2, 0, [], FinishReason.ERROR),
        TokenRow(3, 1, [], FinishReason.NONE),
    ]
    assert news.started == [StartedRequest(1, 5)]
    assert news.failures == [RequestFailure(2, 13, "broken")]


def test_a_new_stream_that_does_not_name_a_request_ends_it() -> None:
    log = admitted(1, 2)
    assert log.attach([ResumePoint(2, 0)]) == [1]
    assert log.requests == [2]


def test_what_happens_without_a_stream_is_kept_for_the_next_one() -> None:
    log = admitted(1, attached=False)
    log.on_report(report(TokenRow(1, 0, [10])))
    assert log.collect(2) is None and log.backlog() == 0
    log.attach([ResumePoint(1, 0)])
    assert collected(log).tokens.tokens == [10]


def test_an_end_is_kept_until_the_message_that_carried_it_is_acknowledged() -> None:
    log = admitted(1, 2)
    log.on_report(report(TokenRow(1, 0, [10], FinishReason.STOP)))
    collected(log, 2)
    log.on_report(report(TokenRow(2, 0, [20], FinishReason.STOP)))
    log.acknowledge(2)
    assert log.requests == [2]
    collected(log, 3)
    log.acknowledge(2)
    assert log.requests == [2]
    log.acknowledge(3)
    assert log.requests == []


def test_a_late_acknowledgement_does_not_forget_a_newer_stay() -> None:
    log = admitted(1)
    log.on_report(report(TokenRow(1, 0, [10], FinishReason.STOP)))
    collected(log, 2)
    log.cancel([1])
    log.admit(admission(1, [1]), number=2)
    log.on_report(report(TokenRow(1, 0, [10], FinishReason.STOP), applied=2))
    log.acknowledge(2)
    assert log.requests == [1]


def test_acknowledgements_do_not_reach_into_the_next_stream() -> None:
    log = admitted(1)
    log.on_report(report(TokenRow(1, 0, [10], FinishReason.STOP)))
    collected(log, 2)
    log.attach([ResumePoint(1, 0)])
    log.acknowledge(2)
    assert log.requests == [1]


@pytest.mark.parametrize("attached", [True, False])
def test_the_cache_is_told_in_full_to_a_new_stream_and_by_changes_after(attached: bool) -> None:
    log = admitted(1, attached=attached)
    log.on_report(StepReport(cache_changes={b"a": True, b"b": True}))
    log.on_report(StepReport(cache_changes={b"a": False, b"c": True}))
    log.attach([])
    news = collected(log)
    assert news.cache_cleared and news.cache_changes == {b"b": True, b"c": True}
    log.on_report(StepReport(cache_changes={b"b": False}))
    log.on_report(StepReport(cache_changes={b"b": True, b"c": False}))
    news = collected(log, 3)
    assert not news.cache_cleared and news.cache_changes == {b"b": True, b"c": False}


def test_an_empty_cache_is_told_too() -> None:
    log = RunLog()
    log.attach([])
    assert collected(log).cache_cleared


def test_a_refused_request_fails_once_and_is_kept_until_acknowledged() -> None:
    log = admitted(1)
    for request in (1, 2, 2):
        log.refuse(Refusal(failure=RequestFailure(request, 3, "no"), position=4))
    news = collected(log)
    assert list(news.tokens.rows()) == [TokenRow(2, 4, [], FinishReason.ERROR)]
    assert news.failures == [RequestFailure(2, 3, "no")]
    log.acknowledge(2)
    assert log.requests == [1]


def test_a_failure_of_a_cancelled_request_is_dropped() -> None:
    log = admitted(1)
    log.cancel([1])
    log.fail(RequestFailure(1, 14, "late"))
    assert log.collect(2) is None


def test_the_backlog_counts_tokens_that_wait() -> None:
    log = admitted(1)
    log.on_report(report(TokenRow(1, 0, [10, 11])))
    assert log.backlog() == 2
    collected(log)
    assert log.backlog() == 0


class _Stay:
    """One stay of a request in the pretended engine; token i of it is (request, i)."""

    def __init__(self, request: int, position: int, length: int) -> None:
        self.request, self.position, self.end = request, position, length


class Exchange(RuleBasedStateMachine):
    """A pretended engine, the log, a lossy stream and a scheduler that records."""

    requests = st.integers(1, 6)

    def __init__(self) -> None:
        super().__init__()
        self.log = RunLog()
        self.number = 0
        self.mailbox: list[Callable[[], None]] = []
        self.applied = 0
        self.running: dict[int, _Stay] = {}
        self.made: list[StepReport] = []
        self.wire: list[StepReport] = []
        self.sent = 0
        self.received = 0
        self.attached = False
        self.records: dict[int, list[int]] = {}
        self.ended: dict[int, int] = {}
        self.cache: dict[bytes, None] = {}
        self.mirror: set[bytes] = set()

    @staticmethod
    def token(request: int, position: int) -> int:
        return request * 100 + position

    @rule(request=requests, length=st.integers(1, 9))
    def admit(self, request: int, length: int) -> None:
        """The scheduler gives a request, perhaps one that it once took back."""
        record = self.records.setdefault(request, [])
        if not self.attached or request in self.ended or request in self.log.requests:
            return
        self.number += 1
        number, position = self.number, len(record)
        assert self.log.admit(admission(request, [1], produced=record), number)

        def apply() -> None:
            self.applied = number
            self.running[request] = _Stay(request, position, max(length, position + 1))

        self.mailbox.append(apply)

    @rule(request=requests)
    def cancel(self, request: int) -> None:
        """The scheduler takes a request back; it may give it again later."""
        if not self.attached or request in self.ended:
            return
        self.log.cancel([request])
        self._send_cancel(request)

    def _send_cancel(self, request: int) -> None:
        self.number += 1
        number = self.number

        def apply() -> None:
            self.applied = number
            self.running.pop(request, None)

        self.mailbox.append(apply)

    @rule()
    def apply_orders(self) -> None:
        if self.mailbox:
            self.mailbox.pop(0)()

    @rule(pages=st.dictionaries(st.sampled_from([b"a", b"b", b"c", b"d"]), st.booleans(), max_size=3))
    def step(self, pages: dict[bytes, bool]) -> None:
        made = StepReport(step=1, applied=self.applied, cache_changes=pages)
        for page, stored in pages.items():
            if stored:
                self.cache[page] = None
            else:
                self.cache.pop(page, None)
        for request, stay in list(self.running.items()):
            token = self.token(request, stay.position)
            ends = stay.position + 1 == stay.end
            finish = FinishReason.LENGTH if ends else FinishReason.NONE
            made.tokens.append_row(TokenRow(request, stay.position, [token], finish))
            stay.position += 1
            if ends:
                del self.running[request]
        self.made.append(made)

    @rule()
    def deliver_report(self) -> None:
        """A report crosses from the engine's thread to the event loop."""
        if self.made:
            self.log.on_report(self.made.pop(0))

    @rule()
    def write(self) -> None:
        if self.attached and (news := self.log.collect(self.sent + 1)) is not None:
            self.sent += 1
            self.wire.append(news)

    @rule()
    def receive(self) -> None:
        if not self.wire:
            return
        news = self.wire.pop(0)
        self.received += 1
        if news.cache_cleared:
            self.mirror.clear()
        for page, stored in news.cache_changes.items():
            (self.mirror.add if stored else self.mirror.discard)(page)
        for row in news.tokens.rows():
            known = self.records[row.request]
            if row.request in self.ended or row.request not in self.log.requests:
                continue
            assert row.position <= len(known), "a gap"
            fresh = row.tokens[len(known) - row.position :]
            known += fresh
            if row.finish:
                self.ended[row.request] = len(known)

    @rule()
    def acknowledge(self) -> None:
        if self.attached:
            self.log.acknowledge(self.received + 1)

    @rule(lost=st.booleans())
    def attach(self, lost: bool) -> None:
        """The stream breaks, with or without the messages under way, and a new one opens."""
        while self.wire and not lost:
            self.receive()
        self.wire.clear()
        if self.attached and lost:
            self.log.detach()
        points = [ResumePoint(r, len(t)) for r, t in self.records.items() if r not in self.ended]
        for request in self.log.attach(points):
            self._send_cancel(request)
        self.attached, self.sent, self.received = True, 1, 0

    @invariant()
    def tokens_are_those_of_the_request_in_order(self) -> None:
        for request, tokens in self.records.items():
            assert tokens == [self.token(request, i) for i in range(len(tokens))]

    def teardown(self) -> None:
        """In the end everything is delivered: each request that the log holds has ended, with all its tokens."""
        self.attach(lost=True)
        while self.mailbox or self.running or self.made:
            self.apply_orders()
            if self.running:
                self.step({})
            self.deliver_report()
            self.write()
            self.receive()
        self.write()
        self.receive()
        assert set(self.log.requests) <= set(self.ended)
        assert self.mirror == set(self.cache)
        self.acknowledge()
        assert self.log.requests == []


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
