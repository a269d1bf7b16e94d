"""Programs of model calls: their states, and how long they live.

A program lives from the call that opens it until it is closed or its lease has ended, which each call renews. Its
states are sequences of tokens; requests go on from them, and changing a state changes no request that has begun.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from functools import partial
from itertools import count

from bough.common.errors import InvalidRequestError, NotFoundError, OverloadedError
from bough.common.model import ModelIdentity
from bough.common.requests import StateRef
from bough.scheduler.failures import Code
from bough.scheduler.program_orders import (
    Cut,
    Extend,
    Fork,
    Join,
    Look,
    ProgramChange,
    Release,
    StateAnswer,
    StateOrder,
)
from bough.scheduler.prompts import SharedPrompt
from bough.scheduler.requests import PROMPT_TAIL_TOKENS, RequestRecord
from bough.scheduler.timers import Timer, Timers
from bough.scheduler.token_store import TokenSequence, TokenStore

PROGRAM_ID_BYTES = 16
MAX_LEASE_S = 3600
MAX_CHILDREN = 1024
"""States that one fork makes."""

_REMEMBERED_JOINS = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramLimits:
    """Beyond these, calls are refused."""

    max_programs: int = 1 << 14
    max_states: int = 1 << 14
    """Of one program."""
    max_states_in_all: int = 1 << 20
    max_tokens: int = 1 << 26
    """Of all states together, shared ones counted once; four bytes each."""


class _OrderError(Exception):
    """An order that is not carried out."""

    def __init__(self, code: Code, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(slots=True, eq=False)
class State:
    """A state of a program."""

    tokens: TokenSequence
    serial: int
    """No two states are alike in it, while numbers are used again."""
    origin: int | None = None
    """Serial of the state that it branched off."""
    branch_length: int = 0
    """Tokens that it has of that one."""

    @property
    def tail(self) -> tuple[int, ...]:
        """Its last tokens."""
        return tuple(self.tokens.since(max(0, self.tokens.length - PROMPT_TAIL_TOKENS)))


@dataclass(slots=True, kw_only=True, eq=False)
class Program:
    """A program."""

    id: bytes
    arrival: int
    """Of its first call; all its requests are queued by it."""
    cache_namespace: bytes
    lease_s: int
    states: dict[int, State] = field(default_factory=dict)
    requests: dict[RequestRecord, None] = field(default_factory=dict)
    """Those under way."""
    lease: Timer | None = None
    joined: dict[int, None] = field(default_factory=dict)
    """Numbers of the branches that were joined last: a second join is another mistake than a wrong number."""


class Programs:
    """All programs.

    Args:
        limits: Beyond these, calls are refused.
        timers: Where leases are kept.
        now_s: A clock that never goes back.
        arrive: Gives the next number of an arrival.
        ended: Called when a program is closed or its lease has ended.
        forgotten: Called with each prompt that no further request can get: states are gone, or have changed.
    """

    def __init__(
        self,
        *,
        limits: ProgramLimits,
        timers: Timers,
        now_s: Callable[[], float],
        arrive: Callable[[], int],
        ended: Callable[[Program], None],
        forgotten: Callable[[SharedPrompt], None],
    ) -> None:
        self.identity: ModelIdentity | None = None
        """The model, once it is known: states must fit it."""
        self.num_states = 0
        self._limits = limits
        self._timers = timers
        self._now_s = now_s
        self._arrive = arrive
        self._ended = ended
        self._programs: dict[bytes, Program] = {}
        self._store = TokenStore(forgotten)
        self._serials = count()

    def __len__(self) -> int:
        return len(self._programs)

    def __contains__(self, program: bytes) -> bool:
        return program in self._programs

    @property
    def num_tokens(self) -> int:
        """Tokens held for states; what several share counts once."""
        return self._store.num_tokens

    def find(self, ref: StateRef) -> tuple[Program, State]:
        """A program, whose lease is renewed, and a state of it. Raises NotFoundError."""
        program = self._program(ref.program)
        self._renew(program)
        state = program.states.get(ref.state)
        if state is None:
            raise NotFoundError(f"base.state: program {program.id.hex()} has no state {ref.state}", field="base")
        return program, state

    def change(self, change: ProgramChange) -> list[StateAnswer]:
        """Carry out orders, each by itself; one answer each.

        Raises:
            InvalidRequestError: The id or the lease is none.
            NotFoundError: The program is not known, and the call does not open it.
            OverloadedError: There are too many programs.
        """
        lease_s = change.lease_s
        if len(change.program) != PROGRAM_ID_BYTES:
            raise InvalidRequestError(
                f"program: has {len(change.program)} bytes, accepted are {PROGRAM_ID_BYTES}", field="program"
            )
        if lease_s is not None and not 1 <= lease_s <= MAX_LEASE_S:
            raise InvalidRequestError(f"lease_s: got {lease_s}, accepted are 1 to {MAX_LEASE_S}", field="lease_s")
        if lease_s is None or change.program in self._programs:
            program = self._program(change.program)
            program.lease_s = lease_s or program.lease_s
        else:
            program = self._open(change.program, change.cache_namespace, lease_s)
        self._renew(program)
        answers = [self._answer(program, order) for order in change.orders]
        if change.close:
            self._end(program)
        return answers

    # Programs

    def _program(self, name: bytes) -> Program:
        program = self._programs.get(name)
        if program is None:
            raise NotFoundError(
                f"program: {name.hex()} is not known here: it was not opened, was closed, or its lease has ended",
                field="program",
            )
        return program

    def _open(self, name: bytes, cache_namespace: bytes, lease_s: int) -> Program:
        if len(self._programs) >= self._limits.max_programs:
            raise OverloadedError(f"{len(self._programs)} programs are open, and no more are accepted")
        program = Program(id=name, arrival=self._arrive(), cache_namespace=cache_namespace, lease_s=lease_s)
        self._programs[name] = program
        self._add_state(program, 0, State(self._store.new(), next(self._serials)))
        return program

    def _renew(self, program: Program) -> None:
        if program.lease is not None:
            self._timers.cancel(program.lease)
        program.lease = self._timers.at(self._now_s() + program.lease_s, partial(self._end, program))

    def _end(self, program: Program) -> None:
        if program.lease is not None:
            self._timers.cancel(program.lease)
            program.lease = None
        del self._programs[program.id]
        for number in list(program.states):
            self._drop_state(program, number)
        self._ended(program)

    # States

    def _add_state(self, program: Program, number: int, state: State) -> None:
        program.states[number] = state
        program.joined.pop(number, None)
        self.num_states += 1

    def _drop_state(self, program: Program, number: int) -> None:
        program.states.pop(number).tokens.release()
        self.num_states -= 1

    def _answer(self, program: Program, order: StateOrder) -> StateAnswer:
        try:
            state = self._carry_out(program, order)
        except _OrderError as error:
            return StateAnswer(code=error.code, message=str(error))
        return StateAnswer() if state is None else StateAnswer(length=state.tokens.length, tail=state.tail)

    def _carry_out(self, program: Program, order: StateOrder) -> State | None:
        match order:
            case Extend(number, tokens, at_length):
                state = _state(program, number)
                if at_length is not None and at_length != (length := state.tokens.length):
                    raise _OrderError(
                        Code.ABORTED,
                        f"state {number}: has {length} tokens, expected are {at_length}: another call has changed it",
                    )
                self._check_tokens(tokens)
                self._add(state, tokens)
            case Fork(number, children):
                state = _state(program, number)
                self._fork(program, state, children)
            case Join(number, children):
                state = _state(program, number)
                self._join(program, state, children)
            case Cut(number, length):
                state = _state(program, number)
                _cut(state, length)
            case Release(numbers):
                self._release(program, numbers)
                return None
            case Look(number):
                state = _state(program, number)
            case _:
                raise _OrderError(Code.INVALID_ARGUMENT, "order: is missing, or none that this version knows")
        return state

    def _check_tokens(self, tokens: tuple[int, ...]) -> None:
        if self.identity is not None and tokens and (largest := max(tokens)) >= self.identity.vocab_size:
            raise _OrderError(
                Code.INVALID_ARGUMENT,
                f"tokens: got {largest}, accepted are token ids from 0 to {self.identity.vocab_size - 1}",
            )

    def _add(self, state: State, tokens: Collection[int]) -> None:
        self._check_room(state, len(tokens))
        state.tokens.extend(tokens)

    def _check_room(self, state: State, num_tokens: int) -> None:
        length = state.tokens.length
        if self.identity is not None and length + num_tokens > (most := self.identity.max_context):
            raise _OrderError(
                Code.INVALID_ARGUMENT,
                f"tokens: the state has {length} tokens, {num_tokens} more make {length + num_tokens}, accepted are at "
                f"most {most}: the model's context holds {most} tokens of prompt and output together",
            )
        if self.num_tokens + num_tokens > self._limits.max_tokens:
            raise _OrderError(
                Code.RESOURCE_EXHAUSTED,
                f"the states of all programs hold {self.num_tokens} tokens, and {num_tokens} more make more than "
                f"{self._limits.max_tokens}",
            )

    def _fork(self, program: Program, state: State, children: tuple[int, ...]) -> None:
        states, most = program.states, self._limits.max_states
        if not 1 <= len(children) <= MAX_CHILDREN:
            raise _OrderError(
                Code.INVALID_ARGUMENT, f"children: got {len(children)} numbers, accepted are 1 to {MAX_CHILDREN}"
            )
        if len(set(children)) < len(children):
            raise _OrderError(Code.INVALID_ARGUMENT, "children: a number is there twice, accepted are distinct ones")
        for number in children:
            if number in states:
                raise _OrderError(
                    Code.ALREADY_EXISTS, f"children: state {number} exists, accepted are numbers that are not in use"
                )
        if len(states) + len(children) > most:
            raise _OrderError(
                Code.RESOURCE_EXHAUSTED,
                f"children: {len(states)} states and {len(children)} more, accepted are at most {most} in a program",
            )
        if self.num_states + len(children) > self._limits.max_states_in_all:
            raise _OrderError(
                Code.RESOURCE_EXHAUSTED, f"children: all programs have {self.num_states} states, and no more fit"
            )
        for number in children:
            child = State(state.tokens.branch(), next(self._serials), state.serial, state.tokens.length)
            self._add_state(program, number, child)

    def _join(self, program: Program, state: State, children: tuple[int, ...]) -> None:
        if not children:
            raise _OrderError(Code.INVALID_ARGUMENT, "children: is empty, accepted is at least one number")
        if len(set(children)) < len(children):
            raise _OrderError(
                Code.FAILED_PRECONDITION, "children: a number is there twice, and a branch is joined once"
            )
        branches = [self._branch(program, state, number) for number in children]
        self._add(state, [token for branch in branches for token in branch.tokens.since(branch.branch_length)])
        for number in children:
            self._drop_state(program, number)
            program.joined[number] = None
        while len(program.joined) > _REMEMBERED_JOINS:
            del program.joined[next(iter(program.joined))]

    def _branch(self, program: Program, state: State, number: int) -> State:
        if number in program.joined:
            raise _OrderError(Code.FAILED_PRECONDITION, f"children: state {number} was joined before")
        branch = _state(program, number)
        if branch.origin != state.serial:
            raise _OrderError(
                Code.FAILED_PRECONDITION, f"children: state {number} did not branch off the state it shall join"
            )
        return branch

    def _release(self, program: Program, numbers: tuple[int, ...]) -> None:
        for number in numbers:
            _state(program, number)
        for number in set(numbers):
            self._drop_state(program, number)


def _state(program: Program, number: int) -> State:
    state = program.states.get(number)
    if state is None:
        raise _OrderError(Code.NOT_FOUND, f"state: {number} is not there: it was not made, or was released")
    return state


def _cut(state: State, length: int) -> None:
    if length > state.tokens.length:
        raise _OrderError(
            Code.INVALID_ARGUMENT, f"length: got {length}, accepted are 0 to {state.tokens.length}, which the state has"
        )
    state.tokens.cut(length)
    state.branch_length = min(state.branch_length, length)
