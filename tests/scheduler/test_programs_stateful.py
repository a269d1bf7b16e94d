"""Programs beside everything that may happen to requests: states behave as lists, and leases end what they must."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from bough.common.requests import StateRef
from bough.common.sampling import FinishReason
from bough.scheduler.bases import KnownBases
from bough.scheduler.failures import Code
from bough.scheduler.policy import LongestPrefixMatch
from bough.scheduler.program_orders import Cut, Extend, Fork, Join, Look, Release, StateOrder
from tests.scheduler.simulated import submission
from tests.scheduler.test_stateful import MAX_QUEUE, SchedulerMachine

LEASE_S = 12
NAMES = (b"a" * 16, b"b" * 16)

# What an order is about: of small numbers one that is there, else whatever the number is.
numbers = st.integers(0, 12)
several = st.lists(numbers, min_size=1, max_size=3).map(tuple)
orders = st.one_of(
    st.builds(
        Extend,
        numbers,
        st.lists(st.integers(0, 9), min_size=1, max_size=6).map(tuple),
        st.none() | st.none() | st.integers(0, 8),
    ),
    st.builds(Fork, numbers, several),
    st.builds(Join, numbers, several),
    st.builds(Cut, numbers, st.integers(0, 8)),
    st.builds(Release, several),
    st.builds(Look, numbers),
)


@dataclass
class Line:
    """A state: a list, and what it had of which other one when it branched off."""

    serial: int
    tokens: list[int] = field(default_factory=list)
    origin: int | None = None
    branch_length: int = 0


class Model:
    """A program as lists."""

    def __init__(self) -> None:
        self.serials = count()
        self.lines = {0: Line(next(self.serials))}
        self.joined: set[int] = set()
        self.ends_s = 0.0

    def meant(self, number: int) -> int:
        known = sorted(self.lines)
        return known[number % len(known)] if known and number < 10 else number

    def branches(self, line: Line) -> list[int]:
        return [number for number, other in self.lines.items() if other.origin == line.serial]

    def aimed(self, order: StateOrder) -> StateOrder:
        """The same kind of order, about states that are mostly there."""
        match order:
            case Release(states):
                # Mostly not the last one, without which nothing more could be done.
                return Release(tuple(self.meant(n) or 12 - n % 13 for n in states[:1]))
            case Fork(state, children):
                return Fork(self.meant(state), _some(sorted(set(range(1, 9)) - self.lines.keys()), children))
            case Join(state, children):
                parents = [n for n, line in self.lines.items() if self.branches(line)]
                if not parents or state >= 11:
                    return Join(self.meant(state), _some(sorted(self.joined), children))
                parent = parents[state % len(parents)]
                return Join(parent, _some(self.branches(self.lines[parent]), children))
            case Extend() | Cut() | Look():
                return replace(order, state=self.meant(order.state))
        return order

    def carry_out(self, order: StateOrder) -> tuple[int, list[int] | None]:
        """The code of an order, and the tokens that its answer tells of."""
        if isinstance(order, Release):
            return self.release(order.states), None
        assert isinstance(order, Extend | Fork | Join | Cut | Look)
        line = self.lines.get(order.state)
        if line is None:
            return Code.NOT_FOUND, None
        code = 0
        match order:
            case Extend(_, tokens, at_length):
                if at_length not in (None, len(line.tokens)):
                    return Code.ABORTED, None
                line.tokens = [*line.tokens, *tokens]
            case Cut(_, length):
                code = self.cut(line, length)
            case Fork(_, children):
                code = self.fork(line, children)
            case Join(_, children):
                code = self.join(line, children)
        return code, None if code else line.tokens

    def release(self, states: tuple[int, ...]) -> int:
        if set(states) - self.lines.keys():
            return Code.NOT_FOUND
        for number in set(states):
            del self.lines[number]
        return 0

    def cut(self, line: Line, length: int) -> int:
        if length > len(line.tokens):
            return Code.INVALID_ARGUMENT
        line.tokens = line.tokens[:length]
        line.branch_length = min(line.branch_length, length)
        return 0

    def fork(self, line: Line, children: tuple[int, ...]) -> int:
        if len(set(children)) < len(children):
            return Code.INVALID_ARGUMENT
        if set(children) & self.lines.keys():
            return Code.ALREADY_EXISTS
        for number in children:
            self.lines[number] = Line(next(self.serials), line.tokens, line.serial, len(line.tokens))
            self.joined.discard(number)
        return 0

    def join(self, line: Line, children: tuple[int, ...]) -> int:
        if len(set(children)) < len(children):
            return Code.FAILED_PRECONDITION
        for number in children:
            if number not in self.joined and number not in self.lines:
                return Code.NOT_FOUND
            if number in self.joined or self.lines[number].origin != line.serial:
                return Code.FAILED_PRECONDITION
        for number in children:
            branch = self.lines.pop(number)
            line.tokens = line.tokens + branch.tokens[branch.branch_length :]
            self.joined.add(number)
        return 0


def _some(known: list[int], chosen: tuple[int, ...]) -> tuple[int, ...]:
    """Numbers of a list, distinct if there are so many; of large numbers what they are."""
    first = chosen[0]
    if not known or first >= 11:
        return chosen
    return tuple(known[(first + i) % len(known)] for i in range(len(chosen)))


class ProgramMachine(SchedulerMachine):
    """Two programs, opened again whenever one has ended."""

    policy = LongestPrefixMatch(max_bypass=2)

    def __init__(self) -> None:
        super().__init__()
        for executor in self.executors:
            executor.bases = KnownBases(least_tokens=1, most_tokens=20)
        self.models: dict[bytes, Model] = {}
        self.program_of: dict[int, bytes] = {}

    def renew(self, name: bytes) -> None:
        self.models[name].ends_s = self.world.time.now_s + LEASE_S

    @rule(name=st.sampled_from(NAMES), asked=st.lists(orders, min_size=3, max_size=12), close=st.integers(0, 7))
    def change(self, name: bytes, asked: list[StateOrder], close: int) -> None:
        model = self.models.setdefault(name, Model())
        expected = []
        for number, order in enumerate(asked):
            asked[number] = order = model.aimed(order)
            code, tokens = model.carry_out(order)
            tokens = tokens or []
            expected.append((code, len(tokens), tuple(tokens[-16:])))
        answers = self.world.change(*asked, program=name, lease_s=LEASE_S, close=not close)
        self.renew(name)
        assert [(answer.code, answer.length, answer.tail) for answer in answers] == expected, asked
        if not close:
            self.end(name)

    @precondition(lambda self: self.models and len(self.world.core.ledger.records) <= 2 * MAX_QUEUE - 3)
    @rule(
        choice=st.integers(0, 1),
        state=numbers,
        siblings=st.integers(1, 2),
        prompt=st.lists(st.integers(0, 9), max_size=2).map(tuple),
    )
    def go_on(self, choice: int, state: int, siblings: int, prompt: tuple[int, ...]) -> None:
        name = sorted(self.models)[choice % len(self.models)]
        state = self.models[name].meant(state)
        requests = range(self.next_request, self.next_request + siblings)
        self.next_request += siblings
        fits = self.world.core.ledger.num_under_way + siblings <= MAX_QUEUE
        call = replace(submission(*requests, prompt=prompt), base=StateRef(name, state))
        self.world.submit(call)
        self.world.receive()
        line = self.models[name].lines.get(state)
        whole = None if line is None else (*line.tokens, *prompt)
        self.renew(name)
        if whole and fits:
            for index, request in enumerate(requests):
                self.alive[request] = (replace(call, prompt=whole), index)
                self.program_of[request] = name
        else:
            expected = Code.NOT_FOUND if whole is None else Code.RESOURCE_EXHAUSTED if whole else Code.INVALID_ARGUMENT
            codes = {f.request: f.code for f in self.world.inbox.failures}
            assert [codes[request] for request in requests] == [expected] * siblings
            # The other machine knows of one kind of refusal alone.
            self.world.inbox.failures = [f for f in self.world.inbox.failures if f.request not in requests]

    @rule(which=st.integers(0, 1), number=st.integers(0, 3))
    def an_executor_loses_a_base(self, which: int, number: int) -> None:
        bases = self.processes[self.executors[which]].bases
        bases.pop(sorted(bases)[number % len(bases)] if bases else 0, None)

    @invariant()
    def bases_are_those_of_prompts_that_are_kept(self) -> None:
        for executor in self.executors:
            assert all(prompt.is_kept for prompt in executor.bases._ids)

    def end(self, name: bytes) -> None:
        """The program has ended, and with it what had not ended before."""
        del self.models[name]
        assert name not in self.world.core.programs
        records = self.world.core.ledger.records
        for request in [request for request in self.alive if self.program_of.get(request) == name]:
            assert records[request].ended
            if records[request].finish is FinishReason.CANCELLED:
                del self.alive[request]
                self.world.core.on_released(self.world.consumer, request)

    @invariant()
    def leases_end_programs(self) -> None:
        for name in [name for name, model in self.models.items() if model.ends_s <= self.world.time.now_s]:
            self.end(name)

    @invariant()
    def states_are_what_the_model_has(self) -> None:
        programs = self.world.core.programs
        assert len(programs) == len(self.models)
        assert programs.num_states == sum(len(model.lines) for model in self.models.values())
        for name, model in self.models.items():
            program = programs._programs[name]
            assert {number: state.tokens.since(0) for number, state in program.states.items()} == {
                number: line.tokens for number, line in model.lines.items()
            }
            assert not any(record.ended for record in program.requests)


TestPrograms = ProgramMachine.TestCase
TestPrograms.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
