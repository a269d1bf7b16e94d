"""The detokenizer copies: one long-lived stream each, and every request on one of them whatever happens to the others.

A new request goes to the attached copy with the fewest, of those that are this gateway's share: where several gateways
have several detokenizers, each pair that talks costs a message a step on both sides, which soon is more than the tokens
in it. When a copy's stream breaks, its requests move at once to any
attached copy, which goes on from the position and the text offset that were received; where there is none they wait
for one, `grace_s` at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import grpc
import grpc.aio

from bough.common.codec import decode_identity, encode_identity, encode_submission
from bough.common.errors import InternalError, NotFoundError, UnavailableError, error_from_number
from bough.common.ids import new_epoch
from bough.common.model import ModelIdentity, check_same_model
from bough.common.requests import Submission
from bough.common.rpc.channel import call, open_channel
from bough.common.rpc.endpoints import watch
from bough.common.rpc.streams import ReconnectingStream
from bough.gateway.codec import deliver_text
from bough.gateway.receiver import Call, Receiver
from bough.rpc.v1 import common_pb2, detokenizer_pb2, detokenizer_pb2_grpc

logger = logging.getLogger(__name__)

PEER = "detokenizer"
MAX_RESUMES = 50
"""Resumes of a request without a new token before it is given up: something about it breaks the chain."""

MAX_RESUMES_OF_STATES = 3
"""The same for a request that goes on from a state: it may be the state that is not found."""

_FLUSH_CHECK_S = 0.01
_PROMPT_TOKENS_A_MESSAGE = 1_000_000
_NOT_FOUND: int = grpc.StatusCode.NOT_FOUND.value[0]


@dataclass(slots=True)
class _Outbox:
    submits: list[Submission] = field(default_factory=list)
    resumes: list[Receiver] = field(default_factory=list)
    cancels: list[int] = field(default_factory=list)
    released: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.submits or self.resumes or self.cancels or self.released)


class Copy:
    """One detokenizer: its stream, the requests on it and what it has yet to be told."""

    def __init__(self, address: str, pool: DetokenizerPool) -> None:
        self.address = address
        self.channel = open_channel(address)
        self.stub = detokenizer_pb2_grpc.DetokenizerServiceStub(self.channel)
        self.live: dict[int, Receiver] = {}
        self.outbox = _Outbox()
        self.retired = False
        """No longer among the addresses; used while its stream holds."""
        self._pool = pool
        self.stream: ReconnectingStream[detokenizer_pb2.DetokenizerRequest, detokenizer_pb2.DetokenizerResponse] = (
            ReconnectingStream(
                open_call=self.stub.Stream,
                hello=pool.hello,
                collect=self._collect,
                on_message=self._on_message,
                on_change=lambda attached: pool.copy_changed(self, attached),
                peer=f"{PEER} at {address}",
            )
        )
        self._task = asyncio.create_task(self.stream.run(), name=f"stream to {PEER} at {address}")

    @property
    def attached(self) -> bool:
        """Whether requests may be sent to it."""
        return self.stream.attached

    async def close(self) -> None:
        """End the stream and the connection."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        await self.channel.close()

    def _collect(self) -> detokenizer_pb2.DetokenizerRequest | None:
        if not self.outbox:
            return None
        outbox, self.outbox = self.outbox, _Outbox()
        message = detokenizer_pb2.DetokenizerRequest(cancels=outbox.cancels, released=outbox.released)
        num_tokens = 0
        for i, submission in enumerate(outbox.submits):
            receivers = [self.live[request] for request in submission.requests if request in self.live]
            if not receivers:
                continue  # cancelled before it was sent
            if num_tokens and num_tokens + len(submission.prompt) > _PROMPT_TOKENS_A_MESSAGE:
                self.outbox.submits = outbox.submits[i:]
                break
            num_tokens += len(submission.prompt)
            message.submits.append(encode_submission(submission))
            for receiver in receivers:
                receiver.sent = True
        for receiver in outbox.resumes:
            if receiver.home is self:
                message.resumes.append(
                    common_pb2.Resume(
                        request=receiver.request, position=receiver.position, text_offset=receiver.text_offset
                    )
                )
        return message

    def _on_message(self, message: detokenizer_pb2.DetokenizerResponse) -> None:
        live = self.live
        if message.HasField("attached") and message.attached.HasField("identity"):
            check_same_model(
                self._pool.identity, decode_identity(message.attached.identity), peer=f"{PEER} at {self.address}"
            )
        if message.HasField("started"):
            for request, cached in zip(message.started.requests, message.started.cached_tokens, strict=False):
                if (receiver := live.get(request)) is not None:
                    receiver.cached_tokens = cached
        if message.errors:
            self._on_errors(message.errors)
        if message.HasField("text"):
            touched: dict[Call, None] = {}
            try:
                deliver_text(message.text, live, touched)
            except (ValueError, IndexError) as error:
                raise InternalError(f"{PEER} at {self.address} sent a broken message: {error}") from error
            finally:
                for client_call in touched:
                    client_call.notify()

    def _on_errors(self, errors: Iterable[common_pb2.RequestError]) -> None:
        lost: list[Receiver] = []
        for entry in errors:
            receiver = self.live.get(entry.request)
            if receiver is None:
                continue
            if entry.code == _NOT_FOUND and _untouched(receiver) and receiver.num_resumes < _most_resumes(receiver):
                lost.append(receiver)
                continue
            error = error_from_number(entry.code, entry.message, retry_after_s=(entry.retry_after_ms or 1000) / 1000)
            if (
                isinstance(error, NotFoundError)
                and receiver.submission is not None
                and receiver.submission.base is None
            ):
                # The client did nothing wrong: we promised to go on and cannot.
                error = UnavailableError(f"the generation was lost after {receiver.position} tokens: {entry.message}")
            receiver.call.fail(error)
        if lost:
            # The Submit was lost with the stream that carried it; the same ids make sending it again harmless.
            for receiver in lost:
                receiver.sent = False
                receiver.num_resumes += 1
            self.send(lost)

    def send(self, receivers: Iterable[Receiver]) -> None:
        """Put requests on this copy: submit what was never sent, go on with the rest."""
        unsent: dict[int, list[Receiver]] = defaultdict(list)
        for receiver in receivers:
            receiver.home = self
            self.live[receiver.request] = receiver
            if receiver.sent or receiver.submission is None:
                self.outbox.resumes.append(receiver)
            else:
                unsent[id(receiver.submission)].append(receiver)
        for group in unsent.values():
            self.outbox.submits.extend(_submissions(group))
        self.stream.wake()


class DetokenizerPool:
    """All detokenizer copies and every request under way.

    Args:
        address: The setting that says where they are; see `endpoints.resolve`.
        identity: The model served, compared with that of each copy.
        peer: This gateway's name, for the copies' logs.
        grace_s: How long a request waits for a copy while there is none.
        gateway: Which of the gateways that share the copies this one is, from 0.
        num_gateways: How many they are.
    """

    def __init__(
        self,
        address: str,
        *,
        identity: ModelIdentity,
        peer: str,
        grace_s: float,
        gateway: int = 0,
        num_gateways: int = 1,
    ) -> None:
        self.identity = identity
        self._address = address
        self._attach = common_pb2.Attach(peer=peer, epoch=new_epoch(), identity=encode_identity(identity))
        self._grace_s = grace_s
        self._gateway = gateway
        self._num_gateways = num_gateways
        self._share: frozenset[str] = frozenset()
        self._copies: dict[str, Copy] = {}
        self._homeless: dict[int, Receiver] = {}
        self._by_request: dict[int, Receiver] = {}
        self._watch: asyncio.Task[None] | None = None
        self._waiters: list[asyncio.Future[None]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self.attachment_changed = asyncio.Event()
        """Set whenever a copy attached or went; whoever waits for it clears it."""

    @property
    def copies(self) -> tuple[Copy, ...]:
        """The copies known now, attached or not."""
        return tuple(self._copies.values())

    @property
    def num_live(self) -> int:
        """Requests under way."""
        return len(self._by_request)

    def start(self) -> None:
        """Find the copies and keep streams to them open."""
        self._watch = asyncio.create_task(watch(self._address, self._on_addresses), name=f"addresses of {PEER}")

    async def stop(self, flush_s: float = 0.5) -> None:
        """Cancel what is left, tell the copies (for `flush_s` at most), and close the streams."""
        self.close(list(self._by_request.values()))
        for _ in range(int(flush_s / _FLUSH_CHECK_S)):
            if not any(copy.attached and copy.outbox for copy in self.copies):
                break
            await asyncio.sleep(_FLUSH_CHECK_S)
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        await asyncio.gather(*(copy.close() for copy in self.copies), *self._closing)
        self._copies.clear()

    async def any_attached(self) -> Copy:
        """The attached copy with the fewest requests. UnavailableError when there is none within the grace."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._grace_s):
                while (copy := self._least_loaded()) is None:
                    await self._next_attachment()
                return copy
        raise UnavailableError(self.trouble())

    async def _next_attachment(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)

    async def decode(self, ids: tuple[int, ...], *, skip_special_tokens: bool = False) -> str:
        """Text of token ids, from any copy."""
        return (await self.decode_all([ids], skip_special_tokens=skip_special_tokens))[0]

    async def decode_all(self, lists: Sequence[Sequence[int]], *, skip_special_tokens: bool = False) -> list[str]:
        """Texts of lists of token ids, from any copy."""
        request = detokenizer_pb2.DecodeRequest(
            counts=[len(ids) for ids in lists],
            tokens=[token for ids in lists for token in ids],
            skip_special_tokens=skip_special_tokens,
        )
        copy = await self.any_attached()
        response: detokenizer_pb2.DecodeResponse = await call(copy.stub.Decode, request, peer=PEER)
        return list(response.texts)

    def trouble(self) -> str:
        """Why no copy is attached, in words."""
        errors = {str(c.stream.last_error) for c in self._copies.values() if c.stream.last_error is not None}
        return "; ".join(sorted(errors)) or f"{PEER} is not available: nothing found at {self._address}"

    def place(self, receivers: Iterable[Receiver]) -> None:
        """Put requests on a copy, new ones and those that lost theirs; without a copy they wait for one."""
        receivers = list(receivers)
        self._by_request.update((receiver.request, receiver) for receiver in receivers)
        copy = self._least_loaded()
        if copy is not None:
            copy.send(receivers)
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        for receiver in receivers:
            receiver.home, receiver.waiting_since = None, now
            self._homeless[receiver.request] = receiver
        loop.call_later(self._grace_s, self._give_up, now)

    def find(self, request: int) -> Receiver | None:
        """The receiver of a request under way here."""
        return self._by_request.get(request)

    def forget(self, receiver: Receiver) -> None:
        """Let go of a request without telling anybody: another receiver takes it over."""
        self._remove(receiver)

    def close(self, receivers: Iterable[Receiver]) -> None:
        """The client has everything or has gone: release what ended, cancel what has not."""
        touched: set[Copy] = set()
        for receiver in receivers:
            if self._by_request.get(receiver.request) is not receiver:
                continue
            home = self._remove(receiver)
            if home is None or not (receiver.sent or receiver.submission is None):
                continue
            (home.outbox.released if receiver.ended else home.outbox.cancels).append(receiver.request)
            touched.add(home)
        for copy in touched:
            copy.stream.wake()

    def hello(self) -> detokenizer_pb2.DetokenizerRequest:
        """The first message of a stream. Requests under way move to the copy once it is attached."""
        return detokenizer_pb2.DetokenizerRequest(attach=self._attach)

    def copy_changed(self, copy: Copy, attached: bool) -> None:
        """A copy's stream opened or broke."""
        self.attachment_changed.set()
        if attached:
            waiters, self._waiters = self._waiters, []
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)
            waiting = list(self._homeless.values())
            self._homeless.clear()
            if waiting:
                self.place(waiting)
            return
        moved, copy.live, copy.outbox = list(copy.live.values()), {}, _Outbox()
        if copy.retired:
            self._drop(copy)
        kept = []
        for receiver in moved:
            receiver.home = None
            receiver.num_resumes += 1
            if receiver.ended:
                # The end is here already; who keeps the request elsewhere gives it up after a while by itself.
                continue
            if receiver.num_resumes > MAX_RESUMES:
                receiver.call.fail(InternalError(f"the generation broke {MAX_RESUMES} streams and is given up"))
            else:
                kept.append(receiver)
        if kept:
            logger.info("%d requests leave %s", len(kept), copy.stream.peer)
            self.place(kept)

    def _remove(self, receiver: Receiver) -> Copy | None:
        self._by_request.pop(receiver.request, None)
        self._homeless.pop(receiver.request, None)
        home = receiver.home
        receiver.home = None
        if isinstance(home, Copy):
            home.live.pop(receiver.request, None)
            return home
        return None

    def _least_loaded(self) -> Copy | None:
        attached = [copy for copy in self._copies.values() if copy.attached]
        attached = [copy for copy in attached if copy.address in self._share] or attached
        # Equals in any order: gateways that all began with the same copy would leave the others idle.
        return min(attached, key=lambda copy: (len(copy.live), random.random()), default=None)

    def _give_up(self, since: float) -> None:
        for receiver in [r for r in self._homeless.values() if r.waiting_since <= since]:
            receiver.call.fail(UnavailableError(self.trouble()))

    def _on_addresses(self, addresses: frozenset[str]) -> None:
        self._share = share_of(addresses, self._gateway, self._num_gateways)
        for address in addresses:
            if address in self._copies:
                self._copies[address].retired = False
            else:
                self._copies[address] = Copy(address, self)
        for copy in self.copies:
            if copy.address not in addresses:
                copy.retired = True
                if not copy.attached:
                    self._drop(copy)

    def _drop(self, copy: Copy) -> None:
        if self._copies.pop(copy.address, None) is not None:
            task = asyncio.create_task(copy.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def share_of(addresses: Iterable[str], gateway: int, num_gateways: int) -> frozenset[str]:
    """The copies that a gateway uses while they live: every copy has a gateway, every gateway has a copy.

    Args:
        addresses: Of all copies, the same for all gateways.
        gateway: Which gateway, from 0.
        num_gateways: How many there are.
    """
    ordered = sorted(addresses)
    if len(ordered) <= num_gateways:
        return frozenset(ordered[gateway % len(ordered) :][:1]) if ordered else frozenset()
    return frozenset(ordered[gateway::num_gateways])


def _most_resumes(receiver: Receiver) -> int:
    submission = receiver.submission
    return MAX_RESUMES if submission is None or submission.base is None else MAX_RESUMES_OF_STATES


def _untouched(receiver: Receiver) -> bool:
    return receiver.submission is not None and receiver.position == 0 and receiver.text_offset == 0


def _submissions(group: list[Receiver]) -> list[Submission]:
    """The submission that all of a group belong to; a part of its siblings each get one of their own, seed included."""
    submission = group[0].submission
    if submission is None:
        return []
    if len(group) == len(submission.requests):
        return [submission]
    parts = []
    for receiver in group:
        sibling = submission.requests.index(receiver.request)
        seed = (submission.sampling.seed + sibling) % (1 << 64)
        sampling = replace(submission.sampling, seed=seed)
        parts.append(replace(submission, requests=(receiver.request,), sampling=sampling))
    return parts
