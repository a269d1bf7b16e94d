"""Requests between gateways and the scheduler: what breaks is mended, and the client's text never shows it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import UnavailableError
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, StateRef, Submission
from bough.common.sampling import FinishReason, SamplingParams, TextOptions, TokenLogprobs
from bough.common.vocab import parse_vocabulary
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.outbox import GatewayOutbox, Outgoing, Upstream
from bough.detokenizer.router import Router
from bough.detokenizer.token_table import TokenTable
from tests.helpers.tokenizer_files import byte_level

LEVEL = byte_level()
STREAMS = TextStreams(TokenTable(parse_vocabulary(json.loads(LEVEL.to_str()))))
IDS = LEVEL.encode("naïve 中文 😀 text, END of it").ids
TEXT = LEVEL.decode(IDS)


def _submission(*requests: int, stop: Sequence[str] = ()) -> Submission:
    return Submission(requests=requests, prompt=(1, 2), sampling=SamplingParams(), text=TextOptions(stop=tuple(stop)))


def _batch(request: int, position: int, tokens: Sequence[int], finish: FinishReason = FinishReason.NONE) -> TokenBatch:
    batch = TokenBatch()
    batch.append_row(TokenRow(request, position, list(tokens), finish))
    return batch


@dataclass
class Client:
    """A gateway's view of one request: what it would have shown, and where it would resume."""

    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish: FinishReason = FinishReason.NONE
    failures: list[RequestFailure] = field(default_factory=list)

    def take(self, outgoing: Outgoing | None) -> None:
        if outgoing is None:
            return
        batch = outgoing.text
        for row, offset, text in zip(batch.tokens.rows(), batch.offsets, batch.texts, strict=True):
            assert row.position <= len(self.tokens) and offset <= len(self.text)
            self.tokens[row.position :] = row.tokens if row.tokens else self.tokens[row.position :]
            assert self.text[offset:] == "", "text was sent twice"
            self.text += text
            self.finish = row.finish or self.finish
        self.failures += outgoing.failures

    def point(self, request: int) -> ResumePoint:
        return ResumePoint(request, len(self.tokens), len(self.text))


def _router() -> tuple[Router, GatewayOutbox]:
    return Router(STREAMS, lambda: None), GatewayOutbox(lambda: None)


def _upstream(router: Router) -> Upstream:
    return router.collect_upstream() or Upstream()


def test_tokens_become_text_and_siblings_have_their_own() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, 8))
    assert [s.requests for s in _upstream(router).submissions] == [(7, 8)]
    clients = {7: Client(), 8: Client()}
    for position, token in enumerate(IDS):
        batch = TokenBatch()
        batch.append(7, position, token)
        batch.append(8, position, IDS[-1 - position])
        router.on_tokens(batch)
    outgoing = gateway.collect()
    assert outgoing is not None and gateway.backlog() == 0
    for request, client in clients.items():
        mine = Outgoing()
        for i, row in enumerate(outgoing.text.tokens.rows()):
            if row.request == request:
                mine.text.tokens.append_row(row)
                mine.text.offsets.append(outgoing.text.offsets[i])
                mine.text.texts.append(outgoing.text.texts[i])
        client.take(mine)
    assert (clients[7].text, clients[7].tokens) == (TEXT, IDS)
    assert clients[8].tokens == IDS[::-1]


def _text_behind(prompt: Sequence[int], base: Sequence[int] = ()) -> str:
    """What the rest of IDS becomes behind a base, of which the last tokens are known, and a prompt."""
    router, gateway = _router()
    ref = StateRef(b"p" * 16, 3) if base else None
    router.on_submit(gateway, replace(_submission(7), prompt=tuple(prompt), base=ref, base_tail=tuple(base[-16:])))
    assert [(s.base, s.prompt) for s in _upstream(router).submissions] == [(ref, tuple(prompt))]
    client, start = Client(), len(base) + len(prompt)
    router.on_tokens(_batch(7, 0, IDS[start:], FinishReason.LENGTH))
    client.take(gateway.collect())
    return client.text


def test_text_behind_a_state_of_a_program_begins_as_behind_the_whole_prompt() -> None:
    whole = [_text_behind(IDS[:cut]) for cut in range(len(IDS))]
    for cut, text in enumerate(whole):
        for base in (0, cut // 2, cut):
            assert _text_behind(IDS[base:cut], IDS[:base]) == text
    # Behind a cut within a character the text differs where the tokens before are not known.
    assert any(_text_behind((), [IDS[0]] * cut) != text for cut, text in enumerate(whole) if cut)


def test_a_found_stop_string_ends_the_request_on_both_sides() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, stop=["END"]))
    _upstream(router)
    client = Client()
    for position, token in enumerate(IDS):
        router.on_tokens(_batch(7, position, [token]))
    outgoing = gateway.collect()
    assert outgoing is not None and outgoing.text.stop_strings == ["END"]
    client.take(outgoing)
    length = len(LEVEL.encode("naïve 中文 😀 text, END").ids)
    assert (client.text, client.finish) == (TEXT[: TEXT.index("END")], FinishReason.STOP_STRING)
    assert len(client.tokens) == length
    assert _upstream(router).stopped == [(7, length)]


def test_a_duplicate_is_dropped_and_a_gap_breaks_the_stream() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7))
    router.on_tokens(_batch(7, 0, IDS[:3]))
    router.on_tokens(_batch(7, 1, IDS[1:4]))
    router.on_tokens(_batch(7, 0, IDS[:2]))
    client = Client()
    client.take(gateway.collect())
    assert client.tokens == IDS[:4]
    with pytest.raises(UnavailableError, match=r"tokens 4\.\.4 are missing"):
        router.on_tokens(_batch(7, 5, IDS[5:6]))


def test_log_probabilities_stay_with_their_tokens() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7))
    logprobs = [TokenLogprobs(logprob=-i, rank=i + 1) for i in range(4)]
    for start, end in ((0, 2), (1, 4)):
        batch = TokenBatch()
        batch.append_row(TokenRow(7, start, IDS[start:end], logprobs=logprobs[start:end]))
        router.on_tokens(batch)
    outgoing = gateway.collect()
    assert outgoing is not None
    rows = list(outgoing.text.tokens.rows())
    assert [row.tokens for row in rows] == [IDS[:2], IDS[2:4]]
    assert [entry for row in rows for entry in row.logprobs or []] == logprobs


def test_cancel_and_release_forget_and_are_passed_on() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, 8))
    _upstream(router)
    router.on_cancel(7)
    router.on_released(8)
    upstream = _upstream(router)
    assert (upstream.cancels, upstream.released, router.num_live) == ([7], [8], 0)
    router.on_tokens(_batch(7, 0, IDS[:1]))
    assert gateway.collect() is None


def test_started_and_failures_reach_the_gateway() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, 8))
    router.on_started([StartedRequest(7, 5), StartedRequest(99, 1)])
    failure = RequestFailure(8, 8, "queue full", 1500)
    router.on_failures([failure, RequestFailure(99, 5, "unknown")])
    outgoing = gateway.collect()
    assert outgoing is not None
    assert (outgoing.started, outgoing.failures) == ([StartedRequest(7, 5)], [failure])
    assert router.num_live == 1


def test_nobody_coming_back_cancels_running_requests_and_releases_ended_ones() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, 8, 9))
    router.on_tokens(_batch(8, 0, IDS, FinishReason.LENGTH))
    _upstream(router)
    orphans = router.close_gateway(gateway)
    assert sorted(orphans) == [7, 8, 9]
    other = GatewayOutbox(lambda: None)
    router.on_resume(other, ResumePoint(9, 0, 0))
    router.expire(gateway, orphans)
    upstream = _upstream(router)
    assert (upstream.cancels, upstream.released) == ([7], [8])
    assert router.num_live == 1


def test_the_grace_of_an_earlier_broken_stream_does_not_end_what_was_resumed_and_orphaned_again() -> None:
    router, first = _router()
    router.on_submit(first, _submission(7))
    _upstream(router)
    earlier = router.close_gateway(first)
    second = GatewayOutbox(lambda: None)
    router.on_resume(second, ResumePoint(7, 0, 0))
    later = router.close_gateway(second)
    router.expire(first, earlier)
    assert (_upstream(router).cancels, router.num_live) == ([], 1)
    router.expire(second, later)
    assert (_upstream(router).cancels, router.num_live) == ([7], 0)


def test_a_submission_that_was_never_answered_is_sent_again_and_an_answered_one_resumed() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7))
    router.on_submit(gateway, _submission(8))
    _upstream(router)
    router.on_tokens(_batch(7, 0, IDS[:2]))
    assert router.reattach() == [ResumePoint(7, 2)]
    assert [s.requests for s in _upstream(router).submissions] == [(8,)]


def test_a_stop_is_told_again_after_the_scheduler_stream_broke() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, stop=["END"]))
    router.on_tokens(_batch(7, 0, IDS))
    first = _upstream(router).stopped
    assert router.reattach() == []
    assert _upstream(router).stopped == first != []


def test_while_draining_new_calls_are_refused() -> None:
    router, gateway = _router()
    router.draining = True
    router.on_submit(gateway, _submission(7))
    outgoing = gateway.collect()
    assert outgoing is not None and outgoing.failures[0].code == 14
    assert not _upstream(router) and router.num_live == 0


def test_an_empty_stop_string_is_refused_by_name() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, stop=["a", ""]))
    outgoing = gateway.collect()
    assert outgoing is not None and outgoing.failures[0].message.startswith("stop: ''")


class World:
    """A scheduler that has all tokens, and streams and processes that break at any moment."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.router, self.gateway = _router()
        self.client, self.submission = Client(), _submission(7, stop=stop)
        self.router.on_submit(self.gateway, self.submission)
        self.next_position = 0  # what the scheduler sends next on its stream

    def deliver(self, count: int) -> None:
        start, end = self.next_position, min(self.next_position + count, len(IDS))
        finish = FinishReason.LENGTH if end == len(IDS) else FinishReason.NONE
        self.router.on_tokens(_batch(7, start, IDS[start:end], finish))
        self.next_position = end

    def read(self) -> None:
        self.client.take(self.gateway.collect())

    def resume_at_scheduler(self, points: list[ResumePoint]) -> None:
        for point in points:
            self.router.on_resumed(7, self.submission.text, (1, 2))
            self.next_position = point.position

    def break_scheduler_stream(self) -> None:
        self.resume_at_scheduler(self.router.reattach())

    def break_gateway_stream(self, meanwhile: int) -> None:
        self.router.close_gateway(self.gateway)
        self.deliver(meanwhile)
        self.come_back()

    def die(self) -> None:
        self.router = Router(STREAMS, lambda: None)
        self.come_back()

    def come_back(self) -> None:
        self.gateway = GatewayOutbox(lambda: None)
        if not self.client.finish:
            self.router.on_resume(self.gateway, self.client.point(7))
            self.deliver(1)  # under way when the resume was asked for
        self.resume_at_scheduler(_upstream(self.router).resumes)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), stop=st.sampled_from([(), ("END",), ("zzz", "😀")]))
def test_whatever_breaks_the_client_sees_the_undisturbed_text(data: st.DataObject, stop: tuple[str, ...]) -> None:
    world = World(stop)
    actions = {
        "tokens": lambda: world.deliver(data.draw(st.integers(1, 5))),
        "read": world.read,
        "scheduler stream breaks": world.break_scheduler_stream,
        "gateway stream breaks": lambda: world.break_gateway_stream(data.draw(st.integers(0, 3))),
        "process dies": world.die,
    }
    for _ in range(data.draw(st.integers(0, 12))):
        actions[data.draw(st.sampled_from(["tokens", *actions]))]()
    world.deliver(len(IDS))
    world.read()
    reference, ids = _undisturbed(stop)
    assert (world.client.text, world.client.tokens) == (reference, ids)
    assert world.client.finish is (FinishReason.STOP_STRING if stop and reference != TEXT else FinishReason.LENGTH)


def _undisturbed(stop: tuple[str, ...]) -> tuple[str, list[int]]:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7, stop=stop))
    client = Client()
    for position, token in enumerate(IDS):
        router.on_tokens(_batch(7, position, [token]))
    router.on_tokens(_batch(7, len(IDS), [], FinishReason.LENGTH))
    client.take(gateway.collect())
    return client.text, client.tokens


def test_a_step_in_which_one_row_has_two_tokens_and_another_only_ends_is_taken_as_it_is() -> None:
    router, gateway = _router()
    router.on_submit(gateway, _submission(7))
    router.on_submit(gateway, _submission(8))
    router.on_tokens(_batch(8, 0, IDS[:1]))
    batch = _batch(7, 0, IDS[:2])
    batch.append_row(TokenRow(8, 1, [], FinishReason.LENGTH))
    router.on_tokens(batch)
    outgoing = gateway.collect()
    assert outgoing is not None
    rows = {(row.request, row.position): row for row in outgoing.text.tokens.rows()}
    assert rows[7, 0].tokens == IDS[:2]
    assert rows[8, 1].finish is FinishReason.LENGTH


def test_what_came_before_a_gap_reaches_its_gateway_at_once() -> None:
    woken: list[str] = []
    router = Router(STREAMS, lambda: None)
    gateway = GatewayOutbox(lambda: woken.append("gateway"))
    router.on_submit(gateway, _submission(7, 8))
    batch = _batch(7, 0, IDS[:1])
    batch.append_row(TokenRow(8, 5, IDS[:1]))
    with pytest.raises(UnavailableError, match="are missing"):
        router.on_tokens(batch)
    assert woken
