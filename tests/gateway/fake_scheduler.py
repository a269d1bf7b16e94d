"""The scheduler's part for programs: states as plain lists of tokens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio

from bough.common.errors import NotFoundError
from bough.common.requests import StateRef
from bough.rpc.v1 import scheduler_pb2 as pb
from bough.rpc.v1 import scheduler_pb2_grpc

Context = grpc.aio.ServicerContext[Any, Any]
_ABORTED, _EXISTS, _INVALID, _NOT_A_BRANCH, _NOT_FOUND = 10, 6, 3, 9, 5


@dataclass
class FakeProgram:
    """One program."""

    lease_s: int
    namespace: bytes
    states: dict[int, list[int]] = field(default_factory=lambda: {0: []})
    branches: dict[int, tuple[list[int], int]] = field(default_factory=dict)
    """By branch: the list of its origin, and how long that was."""

    @property
    def texts(self) -> dict[int, str]:
        """The states, in which a token is a character."""
        return {number: "".join(map(chr, tokens)) for number, tokens in self.states.items()}


class _OrderError(Exception):
    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass
class FakeScheduler(scheduler_pb2_grpc.SchedulerServiceServicer):
    """Keeps programs for ever, whatever their leases."""

    programs: dict[bytes, FakeProgram] = field(default_factory=dict)
    requests: list[pb.ChangeProgramRequest] = field(default_factory=list)
    refusal: tuple[int, str] | None = None
    """(status number, message) for all orders but those that only look."""
    open_gate: asyncio.Event = field(default_factory=asyncio.Event)
    """While it is not set, calls wait."""
    came: asyncio.Condition = field(default_factory=asyncio.Condition)

    def __post_init__(self) -> None:
        self.open_gate.set()

    @property
    def program(self) -> FakeProgram:
        """The only one."""
        (program,) = self.programs.values()
        return program

    def tokens_of(self, ref: StateRef) -> tuple[int, ...]:
        """Tokens of a state. NotFoundError where there is none."""
        program = self.programs.get(ref.program)
        if program is None or ref.state not in program.states:
            raise NotFoundError(f"base.state: there is no state {ref.state}")
        return tuple(program.states[ref.state])

    async def wait_for_requests(self, number: int) -> None:
        """Wait until so many calls have come."""
        async with asyncio.timeout(20), self.came:
            await self.came.wait_for(lambda: len(self.requests) >= number)

    async def Describe(self, request: pb.SchedulerDescribeRequest, context: Context) -> pb.SchedulerDescribeResponse:
        return pb.SchedulerDescribeResponse(epoch=1)

    async def Stream(self, request_iterator: Any, context: Context) -> AsyncIterator[Any]:
        raise NotImplementedError
        yield

    async def ChangeProgram(self, request: pb.ChangeProgramRequest, context: Context) -> pb.ChangeProgramResponse:
        async with self.came:
            self.requests.append(request)
            self.came.notify_all()
        await self.open_gate.wait()
        if request.program not in self.programs:
            if not request.HasField("lease_s"):
                raise NotFoundError(f"program: {request.program.hex()} is not known")
            self.programs[request.program] = FakeProgram(request.lease_s, request.cache_namespace)
        program = self.programs[request.program]
        if request.HasField("lease_s"):
            program.lease_s = request.lease_s
        answers = [self._answer(program, order) for order in request.orders]
        if request.close:
            del self.programs[request.program]
        return pb.ChangeProgramResponse(answers=answers)

    def _answer(self, program: FakeProgram, order: pb.StateOrder) -> pb.StateAnswer:
        try:
            if self.refusal is not None and not order.HasField("look"):
                raise _OrderError(*self.refusal)
            tokens = _carry_out(program, order)
        except _OrderError as error:
            return pb.StateAnswer(code=error.code, message=str(error))
        return pb.StateAnswer(length=len(tokens), tail=tokens[-16:])


def _carry_out(program: FakeProgram, order: pb.StateOrder) -> list[int]:
    if order.HasField("extend"):
        tokens = _state(program, order.extend.state)
        if order.extend.HasField("at_length") and order.extend.at_length != len(tokens):
            raise _OrderError(_ABORTED, f"state {order.extend.state}: has {len(tokens)} tokens")
        tokens += order.extend.tokens
        return tokens
    if order.HasField("fork"):
        return _fork(program, order.fork)
    if order.HasField("join"):
        return _join(program, order.join)
    if order.HasField("cut"):
        return _cut(program, order.cut)
    if order.HasField("release"):
        for number in order.release.states:
            _state(program, number)
        for number in order.release.states:
            del program.states[number]
        return []
    return _state(program, order.look.state)


def _cut(program: FakeProgram, order: pb.CutOrder) -> list[int]:
    tokens = _state(program, order.state)
    if order.length > len(tokens):
        raise _OrderError(_INVALID, f"length: got {order.length}, accepted are 0 to {len(tokens)}")
    del tokens[order.length :]
    if (branch := program.branches.get(order.state)) is not None:
        program.branches[order.state] = (branch[0], min(branch[1], order.length))
    return tokens


def _fork(program: FakeProgram, order: pb.ForkOrder) -> list[int]:
    tokens = _state(program, order.state)
    for child in order.children:
        if child in program.states:
            raise _OrderError(_EXISTS, f"children: state {child} exists")
    for child in order.children:
        program.states[child] = list(tokens)
        program.branches[child] = (tokens, len(tokens))
    return tokens


def _join(program: FakeProgram, order: pb.JoinOrder) -> list[int]:
    tokens, added = _state(program, order.state), []
    for child in order.children:
        branch = _state(program, child)
        origin, length = program.branches.get(child, ([], 0))
        if origin is not tokens:
            raise _OrderError(_NOT_A_BRANCH, f"children: state {child} did not branch off state {order.state}")
        added += branch[length:]
    for child in order.children:
        del program.states[child]
    tokens += added
    return tokens


def _state(program: FakeProgram, number: int) -> list[int]:
    if number not in program.states:
        raise _OrderError(_NOT_FOUND, f"state: {number} is not there")
    return program.states[number]
