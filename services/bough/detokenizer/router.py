"""The detokenizer without the wire: requests between gateways and the scheduler, tokens in, text out.

All state of a request can be rebuilt from its tokens, which the scheduler has. So whatever breaks (a gateway's stream,
the scheduler's, this process) is mended the same way: ask the scheduler for the tokens from a position, make the text
again, and pass on only what the gateway does not have yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import grpc
from opentelemetry.trace import Span

from bough.common.columns import TokenBatch, TokenRow
from bough.common.errors import UnavailableError
from bough.common.requests import RequestFailure, ResumePoint, StartedRequest, Submission
from bough.common.sampling import FinishReason, TextOptions
from bough.detokenizer.incremental import TextStreams
from bough.detokenizer.outbox import GatewayOutbox, Upstream
from bough.detokenizer.request_text import RequestText, TextPiece

PROMPT_TAIL = 16
"""Tokens of the prompt that the first produced token may need to be decoded."""

StartSpan = Callable[[str], Span | None]


@dataclass(slots=True)
class _Call:
    """A submission of which the scheduler has not said anything yet; sent again if its stream breaks before."""

    submission: Submission
    confirmed: bool = False


@dataclass(slots=True)
class _Request:
    """One request."""

    gateway: GatewayOutbox | None
    """None while its gateway's stream is broken."""
    orphaned_by: GatewayOutbox | None = None
    """The stream whose end left it without a gateway; another one may have come and gone since an earlier end."""
    sent_position: int = 0
    sent_offset: int = 0
    """What the gateway has, in tokens and characters."""
    text: RequestText | None = None
    call: _Call | None = None
    awaiting: bool = False
    """Asked for again; its rows that are still under way from before are ignored."""
    rebuild: bool = False
    """What is awaited begins at position 0."""
    finish: FinishReason = FinishReason.NONE
    stopped_length: int | None = None
    span: Span | None = None


@dataclass(slots=True)
class Totals:
    """Counts since the start, for metrics."""

    tokens: int = 0
    chars: int = 0


class Router:
    """Requests of all gateways.

    Args:
        streams: Makes text of tokens.
        wake_upstream: Called when there is something for the scheduler.
        start_span: Opens the span of a request from its traceparent; None where nothing is traced.
    """

    def __init__(
        self, streams: TextStreams, wake_upstream: Callable[[], None], start_span: StartSpan = lambda _: None
    ) -> None:
        self._streams = streams
        self._wake_upstream = wake_upstream
        self._start_span = start_span
        self._requests: dict[int, _Request] = {}
        self._upstream = Upstream()
        self.totals = Totals()
        self.draining = False

    @property
    def num_live(self) -> int:
        """Requests that have not ended, or whose end the gateway has not confirmed."""
        return len(self._requests)

    # From the gateways.

    def on_submit(self, gateway: GatewayOutbox, submission: Submission) -> None:
        """A new client call; also one that is sent again because its fate is not known."""
        refusal = None
        if self.draining:
            refusal = (grpc.StatusCode.UNAVAILABLE, "the detokenizer is shutting down; try again")
        elif not all(submission.text.stop):
            refusal = (grpc.StatusCode.INVALID_ARGUMENT, "stop: '' is not accepted; stop strings must not be empty")
        if refusal is not None:
            for request in submission.requests:
                gateway.add_failure(RequestFailure(request, refusal[0].value[0], refusal[1]))
            return
        call = _Call(submission)
        tail = (*submission.base_tail, *submission.prompt[-PROMPT_TAIL:])[-PROMPT_TAIL:]
        for request in submission.requests:
            text = RequestText(self._streams, submission.text, tail)
            span = self._start_span(submission.traceparent)
            self._requests[request] = _Request(gateway, text=text, call=call, span=span)
        self._upstream.submissions.append(submission)
        self._wake_upstream()

    def on_resume(self, gateway: GatewayOutbox, point: ResumePoint) -> None:
        """A gateway goes on with a request, whether this process knows it or not."""
        entry = self._requests.get(point.request)
        if entry is None:
            entry = self._requests[point.request] = _Request(gateway)
        entry.gateway, entry.orphaned_by = gateway, None
        entry.sent_position, entry.sent_offset = point.position, point.text_offset
        if entry.call is not None and not entry.call.confirmed:
            return  # nothing was produced yet, so nothing can have been missed
        in_step = entry.text is not None and (entry.text.position, entry.text.offset) == (
            point.position,
            point.text_offset,
        )
        entry.rebuild = not in_step or entry.finish is not FinishReason.NONE
        entry.awaiting, entry.finish, entry.stopped_length = True, FinishReason.NONE, None
        self._upstream.resumes.append(ResumePoint(point.request, 0 if entry.rebuild else point.position))
        self._wake_upstream()

    def on_cancel(self, request: int) -> None:
        """A client went away."""
        self._forget(request)
        self._upstream.cancels.append(request)
        self._wake_upstream()

    def on_released(self, request: int) -> None:
        """A gateway has delivered a request's end."""
        self._forget(request)
        self._upstream.released.append(request)
        self._wake_upstream()

    def close_gateway(self, gateway: GatewayOutbox) -> tuple[int, ...]:
        """A gateway's stream broke; returns its requests, which wait to be resumed."""
        orphans = tuple(request for request, entry in self._requests.items() if entry.gateway is gateway)
        for request in orphans:
            entry = self._requests[request]
            entry.gateway, entry.orphaned_by = None, gateway
        return orphans

    def expire(self, gateway: GatewayOutbox, orphans: tuple[int, ...]) -> None:
        """End those of the requests that nobody has resumed since this gateway's stream broke."""
        for request in orphans:
            entry = self._requests.get(request)
            if entry is None or entry.orphaned_by is not gateway:
                continue
            ended = entry.finish is not FinishReason.NONE
            (self._upstream.released if ended else self._upstream.cancels).append(request)
            self._forget(request)
        self._wake_upstream()

    # From the scheduler.

    def reattach(self) -> list[ResumePoint]:
        """What to go on with on a new stream to the scheduler.

        All that the scheduler was told and has not confirmed is told again by the next `collect_upstream`.
        """
        calls = {id(e.call): e.call for e in self._requests.values() if e.call is not None and not e.call.confirmed}
        self._upstream.submissions = [call.submission for call in calls.values()]
        self._upstream.stopped = [
            (request, entry.stopped_length)
            for request, entry in self._requests.items()
            if entry.stopped_length is not None
        ]
        self._upstream.resumes = []
        points = []
        for request, entry in self._requests.items():
            if entry.finish is FinishReason.NONE and (entry.call is None or entry.call.confirmed):
                entry.rebuild = entry.rebuild or entry.text is None
                entry.awaiting = True
                position = 0 if entry.rebuild or entry.text is None else entry.text.position
                points.append(ResumePoint(request, position))
        return points

    def collect_upstream(self) -> Upstream | None:
        """What the scheduler is to be told next."""
        if not self._upstream:
            return None
        upstream, self._upstream = self._upstream, Upstream()
        return upstream

    def on_resumed(self, request: int, options: TextOptions, prompt_tail: tuple[int, ...]) -> None:
        """The scheduler goes on with a request; its tokens follow."""
        entry = self._requests.get(request)
        if entry is None:
            return
        if entry.rebuild or entry.text is None:
            entry.text = RequestText(self._streams, options, prompt_tail)
        entry.awaiting = entry.rebuild = False

    def on_started(self, started: list[StartedRequest]) -> None:
        """Prompts have been computed."""
        for one in started:
            entry = self._requests.get(one.request)
            if entry is None:
                continue
            _confirm(entry)
            if entry.gateway is not None:
                entry.gateway.add_started(one)
                entry.gateway.wake()

    def on_failures(self, failures: list[RequestFailure]) -> None:
        """Requests were refused, failed, or are not known to the scheduler."""
        for failure in failures:
            entry = self._requests.get(failure.request)
            if entry is None:
                continue
            if entry.gateway is not None:
                entry.gateway.add_failure(failure)
            self._forget(failure.request)

    def on_tokens(self, batch: TokenBatch) -> None:
        """A step's tokens.

        Raises:
            UnavailableError: Tokens are missing between what came before and these; the stream must be opened again.
        """
        touched: set[GatewayOutbox] = set()
        try:
            self._take_all(batch, touched)
        finally:
            for gateway in touched:
                gateway.wake()

    def _take_all(self, batch: TokenBatch, touched: set[GatewayOutbox]) -> None:
        requests = self._requests
        # Equal sums are not enough: a row may have two tokens and another, which only ends, none.
        plain = batch.counts.count(1) == len(batch.counts) and not batch.logprobs
        rows = None if plain else batch.rows()
        for i, request in enumerate(batch.requests):
            row = next(rows) if rows is not None else None
            entry = requests.get(request)
            if entry is None:
                continue
            if entry.call is not None:
                _confirm(entry)
            if entry.awaiting or entry.gateway is None or entry.finish:
                continue
            touched.add(entry.gateway)
            if row is None:
                position = batch.positions[i]
                if not batch.finish[i] and self._take_one(request, entry, position, batch.tokens[i]):
                    continue
                row = TokenRow(request, position, [batch.tokens[i]], FinishReason(batch.finish[i]))
            self._take(entry, row)

    def _take_one(self, request: int, entry: _Request, position: int, token: int) -> bool:
        """The common case: the next token of a running request. False: take the general way."""
        text, gateway = entry.text, entry.gateway
        if text is None or gateway is None or position != text.position or position != entry.sent_position:
            return False
        offset = text.offset
        if offset != entry.sent_offset:
            return False
        piece = text.push_one(token)
        self.totals.tokens += 1
        self.totals.chars += len(piece)
        if text.ended is not None:
            row = TokenRow(request, position, [token])
            self._end(entry, row, text.ended, text.position)
            row.finish = text.ended.finish
            self._pass_on(entry, row, offset, text.ended)
            return True
        gateway.add_token(request, position, token, offset, piece)
        entry.sent_position = position + 1
        entry.sent_offset = offset + len(piece)
        return True

    def _take(self, entry: _Request, row: TokenRow) -> None:
        text = entry.text
        if text is None:
            return
        if row.position > text.position:
            raise UnavailableError(
                f"request {row.request:#x}: tokens {text.position}..{row.position - 1} are missing from the stream"
            )
        known = text.position - row.position
        if known >= len(row.tokens) and known and row.finish is FinishReason.NONE:
            return
        start, offset = text.position, text.offset
        tokens = row.tokens[known:]
        piece = text.push(tokens, row.finish)
        self.totals.tokens += len(tokens)
        self.totals.chars += len(piece.text)
        if piece.finish is not FinishReason.NONE:
            self._end(entry, row, piece, text.position)
        logprobs = row.logprobs[known:] if row.logprobs is not None else None
        self._pass_on(entry, TokenRow(row.request, start, tokens, piece.finish, logprobs), offset, piece)

    def _end(self, entry: _Request, row: TokenRow, piece: TextPiece, length: int) -> None:
        entry.finish = piece.finish
        if row.finish is FinishReason.NONE:
            # Found here, so the scheduler does not know; where it ended the request itself, it needs not be told.
            entry.stopped_length = length
            self._upstream.stopped.append((row.request, length))
            self._wake_upstream()
        _end_span(entry, piece.finish.name)

    def _pass_on(self, entry: _Request, row: TokenRow, offset: int, piece: TextPiece) -> None:
        """Give the gateway what it does not have yet of a row."""
        end = row.position + piece.num_tokens
        known = max(0, entry.sent_position - row.position)
        cut = min(max(0, entry.sent_offset - offset), len(piece.text))
        row.tokens = row.tokens[known : max(piece.num_tokens, 0)]
        row.logprobs = row.logprobs[known : max(piece.num_tokens, 0)] if row.logprobs is not None else None
        row.position = min(row.position + known, end)
        text = piece.text[cut:]
        if entry.gateway is None or not (row.tokens or text or row.finish):
            return
        entry.gateway.add_row(row, offset + cut, text, piece.stop_string)
        entry.sent_position = max(entry.sent_position, end)
        entry.sent_offset = max(entry.sent_offset, offset + len(piece.text))

    def _forget(self, request: int) -> None:
        entry = self._requests.pop(request, None)
        if entry is not None:
            _end_span(entry, "FORGOTTEN")


def _confirm(entry: _Request) -> None:
    if entry.call is not None:
        entry.call.confirmed = True
        entry.call = None


def _end_span(entry: _Request, finish: str) -> None:
    if entry.span is not None:
        entry.span.set_attribute("bough.finish", finish)
        if entry.text is not None:
            entry.span.set_attribute("bough.tokens", entry.text.position)
        entry.span.end()
        entry.span = None
