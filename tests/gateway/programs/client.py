"""A client of the public API for programs, as one writes it from the contract alone."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from itertools import count
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc.aio

from bough.rpc.v1 import gateway_pb2, program_pb2_grpc, tokenizer_pb2
from bough.rpc.v1 import program_pb2 as pb

if TYPE_CHECKING:
    Stub = program_pb2_grpc.ProgramsAsyncStub
    Stream = grpc.aio.StreamStreamCall[pb.ProgramRequest, pb.ProgramResponse]

TIMEOUT_S = 30


class CallFailedError(Exception):
    """A call was answered with its failure."""

    def __init__(self, failed: pb.CallFailed) -> None:
        super().__init__(failed.message)
        self.code = failed.code
        self.retry_after_ms = failed.retry_after_ms


class ProgramClient:
    """One stream; a context manager that has opened a program.

    Args:
        channel: To the gateway.
        opening: How the program is opened.
        metadata: Of the call.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        opening: pb.OpenProgram | None = None,
        *,
        metadata: tuple[tuple[str, str], ...] = (),
    ) -> None:
        stub: Stub = program_pb2_grpc.ProgramsStub(channel)
        self.stream: Stream = stub.Run(metadata=metadata)
        self.opened = pb.ProgramOpened()
        self.pieces: dict[int, list[gateway_pb2.GenerateResponse]] = defaultdict(list)
        self.begun: dict[int, asyncio.Event] = defaultdict(asyncio.Event)
        """Set for a generation when its first piece has come."""
        self.answered: list[int] = []
        """Calls in the order in which they were answered."""
        self._opening = opening or pb.OpenProgram()
        self._numbers = count(1)
        self._writing = asyncio.Lock()
        self._results: dict[int, asyncio.Future[pb.ProgramResponse]] = {}
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> ProgramClient:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.leave()

    async def start(self) -> None:
        """Open the program. AioRpcError where the stream ends instead."""
        self._reading = asyncio.create_task(self._read())
        number = await self.send(open=self._opening)
        self.opened = (await self.result(number)).opened

    async def leave(self) -> None:
        """Break the stream off."""
        self.stream.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)

    async def send(self, **action: Any) -> int:
        """Send a call; returns its number."""
        number = next(self._numbers)
        self._results[number] = asyncio.get_running_loop().create_future()
        # grpc.aio loses a write that is begun while another one is under way.
        async with asyncio.timeout(TIMEOUT_S), self._writing:
            await self.stream.write(pb.ProgramRequest(call=number, **action))
        return number

    async def result(self, number: int) -> pb.ProgramResponse:
        """The last answer to a call. CallFailedError, or the AioRpcError that the stream ended with."""
        async with asyncio.timeout(TIMEOUT_S):
            response = await self._results[number]
        if response.HasField("failed"):
            raise CallFailedError(response.failed)
        return response

    async def do(self, **action: Any) -> pb.ProgramResponse:
        """Send a call and wait for its result."""
        return await self.result(await self.send(**action))

    async def half_close(self) -> None:
        """Say that no calls will follow."""
        await self.stream.done_writing()

    async def ended(self) -> grpc.StatusCode:
        """Wait for the end of the stream."""
        async with asyncio.timeout(TIMEOUT_S):
            return await self.stream.code()

    def text(self, number: int, index: int = 0) -> str:
        """What a generation has produced so far."""
        return "".join(piece.text for piece in self.pieces[number] if piece.index == index)

    async def _read(self) -> None:
        error: Exception = ConnectionError("the stream has ended")
        try:
            async for response in self.stream:
                if response.HasField("piece"):
                    self.pieces[response.call].append(response.piece)
                    self.begun[response.call].set()
                    continue
                self.answered.append(response.call)
                self._results[response.call].set_result(response)
        except grpc.aio.AioRpcError as failure:
            error = failure
        finally:
            for future in self._results.values():
                if not future.done():
                    future.set_exception(error)
                    future.exception()  # a test need not look at each


def text(state: int, added: str) -> pb.ExtendState:
    """Text for a state."""
    return pb.ExtendState(state=state, text=added)


def ids(state: int, *added: int) -> pb.ExtendState:
    """Token ids for a state."""
    return pb.ExtendState(state=state, token_ids=tokenizer_pb2.TokenIds(ids=added))


def gen(state: int, *, whole: bool = False, **options: Any) -> pb.GenerateState:
    """A generation on a state."""
    return pb.GenerateState(state=state, whole=whole, options=gateway_pb2.GenerateRequest(**options))


def fork(state: int, *children: int) -> pb.ForkState:
    """Branches of a state."""
    return pb.ForkState(state=state, children=children)


def join(state: int, *children: int) -> pb.JoinStates:
    """The ends of branches for a state."""
    return pb.JoinStates(state=state, children=children)


def cut(state: int, length: int) -> pb.RollbackState:
    """The beginning of a state."""
    return pb.RollbackState(state=state, length=length)


def release(*states: int) -> pb.ReleaseStates:
    """States that are given up."""
    return pb.ReleaseStates(states=states)


def select(state: int, *choices: str, unconditional: bool = False) -> pb.SelectState:
    """Texts to be scored."""
    return pb.SelectState(state=state, choices=choices, unconditional=unconditional)
