"""Long-lived bidirectional streams: what has gathered is sent as one message, and a broken stream is opened again.

Both sides work alike. The owner of a stream gathers what it has to say in its own state and calls `wake`; a writer
asks it for one message as soon as the previous one has been taken by the transport. So a fast peer gets a message per
event and a slow one few large messages, and nothing is queued twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncIterable, Awaitable, Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc.aio

from bough.common.errors import BoughError, InternalError, OverloadedError, UnavailableError
from bough.common.rpc.channel import from_rpc_error

logger = logging.getLogger(__name__)


class Numbered(Protocol):
    """A message of a stream: numbered from 1, and acknowledging the other direction."""

    seq: int
    ack: int


Out = TypeVar("Out", bound=Numbered)
In = TypeVar("In", bound=Numbered)


class StreamWriter(Generic[Out]):
    """Writes what the owner has gathered, one message at a time.

    Args:
        collect: Returns the next message and forgets what is in it, or None when there is nothing to say.
        write: Hands a message to the transport; returns once flow control let it pass.
        backlog: How much is gathered, in the owner's unit.
        max_backlog: Beyond this the consumer is too slow and is cut off; it comes back and resumes.
    """

    def __init__(
        self,
        collect: Callable[[], Out | None],
        write: Callable[[Out], Awaitable[None]],
        *,
        backlog: Callable[[], int] = lambda: 0,
        max_backlog: int = 1 << 30,
    ) -> None:
        self._collect = collect
        self._write = write
        self._backlog = backlog
        self._max_backlog = max_backlog
        self._wakeup = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._cut = False
        self._seq = 0
        self.received = 0
        """Highest seq of the other direction; goes out as `ack`."""

    def wake(self) -> None:
        """Something was gathered. Call from the event loop's thread."""
        if self._backlog() > self._max_backlog and self._task is not None and not self._cut:
            self._cut = True
            self._task.cancel()
        self._wakeup.set()

    def accept(self, seq: int) -> bool:
        """Note a received number; False for a message that came before. Raises UnavailableError on a gap."""
        if seq <= self.received:
            return False
        if seq != self.received + 1:
            raise UnavailableError(f"message {self.received + 1} of the stream is missing, got {seq}")
        self.received = seq
        return True

    async def send(self, message: Out) -> None:
        """Number a message and write it. Only before `run`, for the message that opens a stream."""
        self._seq += 1
        message.seq, message.ack = self._seq, self.received
        await self._write(message)

    async def run(self) -> None:
        """Write until cancelled. Raises OverloadedError when the consumer is too slow."""
        self._task = asyncio.current_task()
        try:
            while True:
                await self._wakeup.wait()
                self._wakeup.clear()
                while (message := self._collect()) is not None:
                    await self.send(message)
        except asyncio.CancelledError:
            if self._cut:
                raise OverloadedError("consumer too slow: reconnect and resume from your position") from None
            raise


class ReconnectingStream(Generic[Out, In]):
    """The calling side of a long-lived stream, kept open through restarts of the peer.

    Args:
        open_call: Opens the RPC.
        hello: The first message of a new stream: attach, and resume points of all that is under way.
        collect: As in StreamWriter.
        on_message: Deals with a received message, the peer's attach answer included.
        on_change: Told True when attached, False when the stream broke.
        peer: The peer's name, for logs.
    """

    def __init__(
        self,
        *,
        open_call: Callable[[], grpc.aio.StreamStreamCall[Out, In]],
        hello: Callable[[], Out],
        collect: Callable[[], Out | None],
        on_message: Callable[[In], None],
        on_change: Callable[[bool], None],
        peer: str,
    ) -> None:
        self._open_call = open_call
        self._hello = hello
        self._collect = collect
        self._on_message = on_message
        self._on_change = on_change
        self.peer = peer
        self._writer: StreamWriter[Out] | None = None
        self.attached = False
        self.last_error: BoughError | None = None
        """Why the stream is not open, for readiness reports."""

    def wake(self) -> None:
        """Something was gathered; sent at once when attached, with the next `hello` and `collect` otherwise."""
        if self._writer is not None:
            self._writer.wake()

    async def run(self) -> None:
        """Keep the stream open until cancelled."""
        backoff_s = 0.05
        while True:
            try:
                await self._run_once()
            except Exception as error:
                self._note(error)
            if self.attached:
                logger.warning("stream to %s broke: %s", self.peer, self.last_error)
                self.attached = False
                self._on_change(False)
                backoff_s = 0.05
            await asyncio.sleep(backoff_s * random.uniform(0.5, 1.5))
            backoff_s = min(backoff_s * 2, 0.3)  # a peer on the same host is back within seconds

    def _note(self, error: Exception) -> None:
        known, before = _as_bough_error(error, self.peer), self.last_error
        self.last_error = known
        if not isinstance(error, _EXPECTED):
            # The owner's bug or a malformed message: say where, and go on, or the peer would be lost for good.
            logger.error("stream to %s failed", self.peer, exc_info=error)
        elif not self.attached and not isinstance(known, UnavailableError) and str(known) != str(before):
            logger.error("%s refuses the stream: %s", self.peer, known)

    async def _run_once(self) -> None:
        call = self._open_call()
        writer = StreamWriter(self._collect, call.write)
        try:
            await writer.send(self._hello())
            self._writer = writer
            await pump(call, writer, self._receive)
            raise UnavailableError(f"{self.peer} closed the stream")
        finally:
            self._writer = None
            call.cancel()

    def _receive(self, message: In) -> None:
        self._on_message(message)
        if not self.attached:
            self.attached, self.last_error = True, None
            self._on_change(True)
            self.wake()


_EXPECTED = (BoughError, grpc.aio.AioRpcError, asyncio.InvalidStateError)


def _as_bough_error(error: Exception, peer: str) -> BoughError:
    if isinstance(error, BoughError):
        return error
    if isinstance(error, grpc.aio.AioRpcError):
        return from_rpc_error(error, peer=peer)
    if isinstance(error, asyncio.InvalidStateError):
        # grpc.aio says so when a message is written to a call that has ended; the reader knows why, but lost the race.
        return UnavailableError(f"{peer} closed the stream")
    return InternalError(f"{type(error).__name__}: {error}")


async def pump(messages: AsyncIterable[In], writer: StreamWriter[Any], on_message: Callable[[In], None]) -> None:
    """Run one open stream from either side: read until the peer closes, while the writer writes.

    Raises whatever `on_message`, the transport or the writer raises, after both directions have ended.
    """
    reading = asyncio.create_task(_read(messages, writer, on_message))
    writing = asyncio.create_task(writer.run())
    try:
        await asyncio.wait({reading, writing}, return_when=asyncio.FIRST_COMPLETED)
        for task in (writing, reading):
            if task.done():
                task.result()
    finally:
        reading.cancel()
        writing.cancel()
        await asyncio.gather(reading, writing, return_exceptions=True)


async def _read(messages: AsyncIterable[In], writer: StreamWriter[Any], on_message: Callable[[In], None]) -> None:
    async for message in messages:
        if writer.accept(message.seq):
            on_message(message)
