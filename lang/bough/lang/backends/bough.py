"""A server of ours over gRPC. It keeps the states: a branch costs nothing, and nothing is sent or computed twice.

A program is a stream of its own, since the server finishes programs in the order in which they began; streams share a
few connections. Calls are sent without waiting for those before them, in the order in which they were made: the server
runs those on one state one after the other. What fails of that is the error of the next call that needs an answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import grpc
import grpc.aio

from bough.client.client import default_url
from bough.client.errors import UnauthorizedError
from bough.client.types import TokenLogprob, Usage
from bough.common.errors import BoughError, UnavailableError, error_from_number
from bough.common.rpc.channel import from_rpc_error, open_channel
from bough.lang.backends.base import (
    ROOT,
    ChatMessages,
    Content,
    Generation,
    Message,
    Piece,
    PlainText,
    Selection,
)
from bough.lang.choices import ChoiceLogprobs
from bough.lang.errors import ExpressionError, StateError
from bough.rpc.v1 import common_pb2, gateway_pb2, program_pb2_grpc
from bough.rpc.v1 import program_pb2 as pb

MAX_CHANNELS = 4
"""Connections of an event loop: several, since each leads to one copy of the gateway."""

_SESSIONS_A_CHANNEL = 16
"""Before there is a further one."""

_LEAVE_S = 5.0
"""How long the server may take to say that a program has ended; it ends by itself later."""

_MAX_CHILDREN = 1024
_STATE_CODES = frozenset(
    code.value[0]
    for code in (grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.ABORTED)
)

Handler = Callable[[pb.ProgramResponse | BoughError], None]
"""Gets the answers to one call, or why there are none."""


class Bough:
    """A server of ours, over gRPC.

    Args:
        url: `bough://HOST:PORT` or `http://HOST:PORT` with the port of the REST API, after which comes that of gRPC;
            None: what BOUGH_URL says, else this machine.
        grpc_port: The port of gRPC where it is another one.
        api_key: Sent as a bearer token.
        model: The model's name; where None, the one that the server has.
        lease_s: How long the server keeps states when this process has died.
        cache_salt: Prefixes are shared only among programs with the same one.
        pause_s: Text comes in pieces no closer together than this; None: each text as a whole.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        grpc_port: int | None = None,
        api_key: str | None = None,
        model: str | None = None,
        lease_s: int | None = None,
        cache_salt: str = "",
        pause_s: float | None = 0.05,
    ) -> None:
        self.address = _address(url or default_url(), grpc_port)
        self._metadata = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._opening = pb.OpenProgram(model=model or "", lease_s=lease_s, cache_salt=cache_salt)
        self._pause_s = pause_s
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}

    def __repr__(self) -> str:
        return f"<Bough at {self.address}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[BoughSession]:
        """A session for one program. Programs that run at the same time share connections; the last one closes them."""
        loop = asyncio.get_running_loop()
        connection = self._connections.setdefault(loop, _Connection(self.address))
        channel = connection.enter()
        session = BoughSession(channel.stub, self._opening, self._metadata, pause_s=self._pause_s)
        try:
            yield session
        finally:
            connection.leave(channel, session)
            if connection.num_sessions == 0:
                del self._connections[loop]
                await connection.close()


@dataclass(slots=True, eq=False)
class _Channel:
    channel: grpc.aio.Channel
    stub: program_pb2_grpc.ProgramsAsyncStub
    num_sessions: int = 0


class _Connection:
    """What the sessions of one event loop share."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._channels: list[_Channel] = []
        self._leaving: set[asyncio.Task[None]] = set()

    @property
    def num_sessions(self) -> int:
        """Sessions that are open."""
        return sum(channel.num_sessions for channel in self._channels)

    def enter(self) -> _Channel:
        """The channel for one more session."""
        channel = min(self._channels, key=lambda channel: channel.num_sessions, default=None)
        if channel is None or (channel.num_sessions >= _SESSIONS_A_CHANNEL and len(self._channels) < MAX_CHANNELS):
            opened = open_channel(self._address)
            stub: program_pb2_grpc.ProgramsAsyncStub = program_pb2_grpc.ProgramsStub(opened)
            channel = _Channel(opened, stub)
            self._channels.append(channel)
        channel.num_sessions += 1
        return channel

    def leave(self, channel: _Channel, session: BoughSession) -> None:
        """A session is over; the server is told while others go on."""
        channel.num_sessions -= 1
        task = asyncio.create_task(session.close())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Wait until the server knows of all ends, and close the channels."""
        if self._leaving:
            await asyncio.wait(set(self._leaving))
        await asyncio.gather(*(channel.channel.close() for channel in self._channels))


@dataclass(slots=True)
class _State:
    """What is known here of a state."""

    length: int = 0
    """Tokens, as far as they were told."""
    unconfirmed: list[asyncio.Future[pb.ProgramResponse]] = field(default_factory=list)
    """Calls on it that are not answered, or that have failed."""
    messages: tuple[Message, ...] = ()
    """Whole turns, where it is a chat."""
    turn: str = ""
    """Of the assistant's open one."""
    is_open: bool = False
    branched_at: tuple[int, int] = (0, 0)
    """Messages, and characters of the turn, that it had when it branched."""

    def branch(self) -> _State:
        """A new state that is equal to it."""
        marks = (len(self.messages), len(self.turn))
        return _State(messages=self.messages, turn=self.turn, is_open=self.is_open, branched_at=marks)

    def known(self) -> tuple[Message, ...]:
        """The turns, with the one that is open."""
        return (*self.messages, Message("assistant", self.turn)) if self.is_open else self.messages


class BoughSession:
    """A program on the server."""

    def __init__(
        self,
        stub: program_pb2_grpc.ProgramsAsyncStub,
        opening: pb.OpenProgram,
        metadata: tuple[tuple[str, str], ...],
        *,
        pause_s: float | None,
    ) -> None:
        self._pause_s = pause_s
        self._calls = count(1)
        self._handlers: dict[int, Handler] = {}
        self._error: BoughError | None = None
        self._outgoing: asyncio.Queue[pb.ProgramRequest | None] = asyncio.Queue()
        self._states = {ROOT: _State()}
        self._next_state = ROOT + 1
        self._marks: list[_State] = []
        self._ask(open=opening)
        # grpc.aio takes requests from an iterator one after the other; writes that overlap get lost.
        self._stream = stub.Run(_requests(self._outgoing), metadata=metadata)
        self._reading = asyncio.create_task(self._read())

    async def extend(self, state: int, content: Content) -> None:
        """Add to a state; sent now, and confirmed with the next call that waits."""
        known = self._states[state]
        if isinstance(content, PlainText):
            self._change(state, extend=pb.ExtendState(state=state, text=content.text))
            known.turn += content.text
        else:
            self._change(state, extend=pb.ExtendState(state=state, chat=_chat(known, content)))
            known.messages = (*known.known(), *content.messages)
            known.turn, known.is_open = "", content.opens_turn

    async def generate(self, state: int, generation: Generation) -> AsyncGenerator[Piece, None]:
        """Go on with a state."""
        known, texts, usage = self._states[state], list[str](), Usage()
        answers: asyncio.Queue[pb.ProgramResponse | BoughError] = asyncio.Queue()
        action = _generate(state, generation, self._pause_s)
        number = self._send(answers.put_nowait, generate=action)
        try:
            await self._confirm(state)
            while True:
                response = _checked(await answers.get())
                if response.HasField("changed"):
                    break
                piece = _piece(response.piece, usage)
                usage = piece.usage or usage
                texts.append(piece.text)
                yield piece
            number = 0
        finally:
            if number:
                self._cancel(number)
        known.length = response.changed.length
        if generation.sampling.is_single:
            known.turn += "".join(texts)

    async def select(self, state: int, selection: Selection) -> Sequence[ChoiceLogprobs]:
        """Log probabilities of each choice, all of them computed at once."""
        action = pb.SelectState(state=state, choices=selection.choices, unconditional=selection.unconditional)
        number, answered = self._ask(select=action)
        try:
            await self._confirm(state)
            selected = (await answered).selected
        except BaseException:
            self._cancel(number)
            raise
        return _scores(selected)

    async def fork(self, state: int, count: int) -> Sequence[int]:
        """New states equal to this one. Their numbers are chosen here, so that nothing is waited for."""
        numbers = range(self._next_state, self._next_state + count)
        self._next_state += count
        for start in range(0, count, _MAX_CHILDREN):
            some = numbers[start : start + _MAX_CHILDREN]
            for number in some:
                self._states[number] = self._states[state].branch()
            self._change(state, *some, fork=pb.ForkState(state=state, children=some))
        return numbers

    async def join(self, state: int, children: Sequence[int], *, append: bool) -> None:
        """Release branches, and add what they have got since they branched."""
        branches, known = [self._states.pop(child) for child in children], self._states[state]
        if not append:
            self._send(_ignore, release=pb.ReleaseStates(states=children))
            return
        for branch in branches:
            num_messages, num_characters = branch.branched_at
            known.messages += branch.messages[num_messages:]
            known.turn += branch.turn[num_characters:]
            known.unconfirmed += branch.unconfirmed
        self._change(state, join=pb.JoinStates(state=state, children=children))

    async def position(self, state: int) -> int:
        """Where a state ends."""
        await self._confirm(state)
        known = self._states[state]
        mark = known.branch()
        mark.length = known.length
        self._marks.append(mark)
        return len(self._marks) - 1

    async def rollback(self, state: int, position: int) -> None:
        """Cut a state off."""
        known, mark = self._states[state], self._marks[position]
        known.messages, known.turn, known.is_open = mark.messages, mark.turn, mark.is_open
        self._change(state, rollback=pb.RollbackState(state=state, length=mark.length))

    async def release(self, states: Sequence[int]) -> None:
        """Give states up."""
        for state in states:
            del self._states[state]
        self._send(_ignore, release=pb.ReleaseStates(states=states))

    async def close(self) -> None:
        """End the program."""
        if self._error is None:
            self._send(_ignore, close=pb.CloseProgram())
        self._outgoing.put_nowait(None)
        try:
            await asyncio.wait({self._reading}, timeout=_LEAVE_S)
        finally:
            self._stream.cancel()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)

    def _send(self, handler: Handler, **action: Any) -> int:
        """Send a call. Raises what the stream has ended with."""
        if self._error is not None:
            raise self._error
        number = next(self._calls)
        self._handlers[number] = handler
        self._outgoing.put_nowait(pb.ProgramRequest(call=number, **action))
        return number

    def _ask(self, **action: Any) -> tuple[int, asyncio.Future[pb.ProgramResponse]]:
        """Send a call that is answered once."""
        answered: asyncio.Future[pb.ProgramResponse] = asyncio.get_running_loop().create_future()
        # Not every call is waited for; what it fails with is then what those behind it fail with.
        answered.add_done_callback(lambda done: done.cancelled() or done.exception())

        def settle(response: pb.ProgramResponse | BoughError) -> None:
            if answered.done():
                return
            try:
                answered.set_result(_checked(response))
            except BoughError as error:
                answered.set_exception(error)

        return self._send(settle, **action), answered

    def _change(self, *states: int, **action: Any) -> None:
        """Send a change of states that nobody waits for yet."""
        _, answered = self._ask(**action)
        changed = [self._states[state] for state in states]
        for known in changed:
            known.unconfirmed.append(answered)

        def note(done: asyncio.Future[pb.ProgramResponse]) -> None:
            if done.cancelled() or done.exception() is not None:
                return
            for known in changed:
                known.length = done.result().changed.length

        answered.add_done_callback(note)

    async def _confirm(self, state: int) -> None:
        """Wait until all changes of a state are answered; raises the first error."""
        known = self._states[state]
        if known.unconfirmed:
            await asyncio.wait(known.unconfirmed)
            for answered in known.unconfirmed:
                answered.result()
            known.unconfirmed = []

    def _cancel(self, number: int) -> None:
        if self._handlers.pop(number, None) is not None and self._error is None:
            self._send(_ignore, cancel=number)

    async def _read(self) -> None:
        error: BoughError = UnavailableError("the server has closed the program")
        try:
            async for response in self._stream:
                handler = self._handlers.get(response.call)
                if not response.HasField("piece"):
                    self._handlers.pop(response.call, None)
                if handler is not None:
                    handler(response)
        except grpc.aio.AioRpcError as failure:
            error = _error_of_stream(failure)
        finally:
            self._error = error
            handlers, self._handlers = self._handlers, {}
            for handler in handlers.values():
                handler(error)


async def _requests(outgoing: asyncio.Queue[pb.ProgramRequest | None]) -> AsyncIterator[pb.ProgramRequest]:
    while (request := await outgoing.get()) is not None:
        yield request


def _ignore(_: pb.ProgramResponse | BoughError) -> None:
    pass


def _checked(response: pb.ProgramResponse | BoughError) -> pb.ProgramResponse:
    """The answer; raises where it says that the call has failed."""
    if isinstance(response, BoughError):
        raise response
    if response.HasField("failed"):
        failed = response.failed
        if failed.code in _STATE_CODES:
            raise StateError(failed.message)
        raise error_from_number(failed.code, failed.message, retry_after_s=(failed.retry_after_ms or 1000) / 1000)
    return response


def _error_of_stream(error: grpc.aio.AioRpcError) -> BoughError:
    if error.code() is grpc.StatusCode.UNAUTHENTICATED:
        return UnauthorizedError(error.details() or "the API key is missing or wrong")
    return from_rpc_error(error, peer="the server")


def _address(url: str, grpc_port: int | None) -> str:
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = None
    if parts.scheme not in ("bough", "http") or not parts.hostname or (port is None and grpc_port is None):
        raise ExpressionError(f"url: got {url!r}, accepted is bough://HOST:PORT or http://HOST:PORT", field="url")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{host}:{grpc_port or (port or 0) + 1}"


def _chat(known: _State, content: ChatMessages) -> pb.ChatExtension:
    before = known.known()
    messages = [{"role": message.role, "content": message.content} for message in (*before, *content.messages)]
    return pb.ChatExtension(
        chat=gateway_pb2.ChatPrompt(messages_json=json.dumps(messages, ensure_ascii=False)),
        num_known=len(before),
        is_open=known.is_open,
        open_turn=content.opens_turn,
    )


def _generate(state: int, generation: Generation, pause_s: float | None) -> pb.GenerateState:
    action = pb.GenerateState(state=state, whole=pause_s is None, pause_ms=int((pause_s or 0) * 1000))
    given = generation.sampling.given()
    if "logprobs" in given:
        given["top_logprobs"] = given.pop("logprobs")
    if given.get("top_k") == -1:
        given["top_k"] = 0
    if "seed" in given:
        given["seed"] %= 1 << 64
    for name, value in given.items():
        try:
            action.options.MergeFrom(gateway_pb2.GenerateRequest(**{name: value}))
        except (ValueError, TypeError) as error:
            raise ExpressionError(f"{name}: got {value!r}: {error}", field=name) from None
    if generation.constraint is not None:
        setattr(action.options, generation.constraint.kind, generation.constraint.source)
    return action


def _piece(message: gateway_pb2.GenerateResponse, before: Usage) -> Piece:
    """A piece.

    Args:
        message: The same on the wire.
        before: Tokens of the continuations that have ended.
    """
    usage, finish_reason = None, None
    if message.finish_reason:
        cut_short = message.finish_reason == common_pb2.FINISH_REASON_LENGTH
        finish_reason = "length" if cut_short else "stop"
        usage = Usage(
            prompt_tokens=message.usage.prompt_tokens,
            completion_tokens=before.completion_tokens + message.usage.completion_tokens,
            cached_tokens=max(before.cached_tokens, message.usage.cached_tokens),
        )
    return Piece(
        text=message.text,
        index=message.index,
        finish_reason=finish_reason,
        logprobs=_logprobs(message),
        usage=usage,
    )


def _logprobs(message: gateway_pb2.GenerateResponse) -> tuple[TokenLogprob, ...]:
    columns, start, found = message.logprobs, 0, []
    texts = [data.decode(errors="replace") for data in message.top_bytes]
    for data, logprob, num_top in zip(message.logprob_bytes, columns.logprobs, columns.top_counts, strict=True):
        end = start + num_top
        top = tuple(zip(texts[start:end], columns.top_logprobs[start:end], strict=True))
        found.append(TokenLogprob(token=data.decode(errors="replace"), logprob=logprob, top=top))
        start = end
    return tuple(found)


def _scores(selected: pb.StateSelected) -> list[ChoiceLogprobs]:
    scores, start = [], 0
    for num_tokens in selected.counts:
        part = slice(start, start + num_tokens)
        scores.append(
            ChoiceLogprobs(
                tokens=tuple(map(str, selected.token_ids[part])),
                logprobs=tuple(selected.logprobs[part]),
                unconditional=tuple(selected.unconditional_logprobs[part]),
            )
        )
        start += num_tokens
    return scores
