"""Whatever happens in whatever order: each accepted request ends once, unchanged, and nothing is left behind."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from bough.common.requests import Submission
from bough.common.sampling import FinishReason
from bough.scheduler.core import EXECUTOR_GRACE_S, MAX_FRUITLESS_DEATHS
from bough.scheduler.failures import Code
from bough.scheduler.policy import AdmissionPolicy, FirstComeFirstServed, LongestPrefixMatch
from bough.scheduler.requests import RequestState
from tests.scheduler.simulated import CAPACITY, Inbox, SimulatedExecutor, World, expected_tokens, submission

MAX_QUEUE = 12
PROMPTS = ((1,), (1, 2, 3, 4, 5, 6, 7, 8, 9), (1, 2, 3, 4, 9), (7,) * 30)


class SchedulerMachine(RuleBasedStateMachine):
    """The core between a consumer that comes and goes and two executors that die, stall and lose messages."""

    policy: AdmissionPolicy = FirstComeFirstServed()

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            policy=self.policy,
            max_queue=MAX_QUEUE,
            capacity=replace(CAPACITY, max_rows=2, num_pages=24, token_budget=8),
        )
        self.processes = {self.world.executor: self.world.process}
        other = self.world.core.add_executor("executor-1", lambda: None)
        self.processes[other] = SimulatedExecutor(epoch=1, capacity=self.world.process.capacity)
        self.executors = list(self.processes)
        self.epochs = 10
        self.next_request = 1
        self.alive: dict[int, tuple[Submission, int]] = {}
        self.stopped: dict[int, int] = {}

    def attach(self, which: int) -> None:
        executor = self.executors[which]
        self.world.attach(executor, self.processes[executor])

    def pick(self, choice: int) -> int:
        return sorted(self.alive)[choice % len(self.alive)]

    # Beyond this the oldest ended requests would be forgotten, which test_core looks at.
    @precondition(lambda self: len(self.world.core.ledger.records) <= 2 * MAX_QUEUE - 3)
    @rule(
        siblings=st.integers(1, 3),
        prompt=st.sampled_from(PROMPTS),
        max_tokens=st.integers(1, 6),
        priority=st.integers(0, 1),
    )
    def submit(self, siblings: int, prompt: tuple[int, ...], max_tokens: int, priority: int) -> None:
        requests = range(self.next_request, self.next_request + siblings)
        self.next_request += siblings
        before = self.world.core.ledger.num_under_way
        call = replace(submission(*requests, prompt=prompt, max_tokens=max_tokens), priority=priority)
        self.world.submit(call)
        self.world.receive()
        if before + siblings <= MAX_QUEUE:
            self.alive.update({request: (call, index) for index, request in enumerate(requests)})
        else:
            assert {f.request for f in self.world.inbox.failures} >= set(requests)
            assert {f.code for f in self.world.inbox.failures} == {Code.RESOURCE_EXHAUSTED}

    @rule(which=st.integers(0, 1), deliver=st.booleans())
    def step(self, which: int, deliver: bool) -> None:
        executor = self.executors[which]
        if executor.attached:
            process = self.processes[executor]
            orders = executor.collect()
            if orders is not None:
                process.apply(orders)
            self.world.core.on_step(executor, process.step())
            if deliver:
                self.world.receive()

    @rule()
    def receive(self) -> None:
        self.world.receive()

    @rule(which=st.integers(0, 1), steps=st.integers(0, 3), loses_orders=st.booleans())
    def break_executor_stream(self, which: int, steps: int, loses_orders: bool) -> None:
        executor = self.executors[which]
        if executor.attached:
            if loses_orders:
                executor.collect()
            self.world.core.on_executor_lost(executor)
            for _ in range(steps):
                self.processes[executor].step()

    def no_request_has_lost_its_last_executor(self) -> bool:
        return not any(
            record.fruitless_deaths == MAX_FRUITLESS_DEATHS
            for record in self.world.core.ledger.records.values()
            if record.state is not RequestState.ENDED
        )

    # One more death would end such a request with an error, which test_executor_loss looks at.
    @precondition(no_request_has_lost_its_last_executor)
    @rule(which=st.integers(0, 1))
    def kill_executor(self, which: int) -> None:
        executor = self.executors[which]
        if executor.attached:
            self.world.core.on_executor_lost(executor)
        self.epochs += 1
        self.processes[executor] = SimulatedExecutor(epoch=self.epochs, capacity=self.world.process.capacity)

    @rule(which=st.integers(0, 1))
    def attach_executor(self, which: int) -> None:
        if not self.executors[which].attached:
            self.attach(which)

    @rule(resumed=st.integers(0, 2**20))
    def lose_consumer(self, resumed: int) -> None:
        """Another consumer comes and takes some of the requests; nobody wants the others."""
        world = self.world
        world.core.on_consumer_lost(world.consumer)
        world.consumer, world.inbox = world.new_consumer(), Inbox()
        for bit, request in enumerate(sorted(self.alive)):
            if resumed >> bit & 1:
                world.core.on_resume(world.consumer, request, 0)
            else:
                del self.alive[request]
        world.receive()

    @precondition(lambda self: self.alive)
    @rule(choice=st.integers(0, 100), received=st.booleans())
    def resume_again(self, choice: int, received: bool) -> None:
        request = self.pick(choice)
        if received:
            self.world.receive()
        self.world.core.on_resume(self.world.consumer, request, 0)

    @precondition(lambda self: self.alive)
    @rule(choice=st.integers(0, 100))
    def cancel(self, choice: int) -> None:
        request = self.pick(choice)
        del self.alive[request]
        self.world.core.on_cancel(self.world.consumer, request)
        assert request not in self.world.core.ledger.records

    @precondition(lambda self: self.alive)
    @rule(choice=st.integers(0, 100), length=st.integers(0, 3))
    def stop(self, choice: int, length: int) -> None:
        request = self.pick(choice)
        length = min(length, len(self.world.inbox.tokens.get(request, ())))
        if request not in self.stopped:
            self.stopped[request] = length
            self.world.core.on_stopped(self.world.consumer, request, length)

    @precondition(lambda self: self.alive)
    @rule(choice=st.integers(0, 100))
    def release(self, choice: int) -> None:
        request = self.pick(choice)
        if request in self.world.inbox.finish:
            self.check_ended(request)
            del self.alive[request]
            self.world.core.on_released(self.world.consumer, request)
            assert request not in self.world.core.ledger.records

    @rule(seconds=st.sampled_from([0.5, EXECUTOR_GRACE_S, 11.0]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    def check_ended(self, request: int) -> None:
        call, index = self.alive[request]
        inbox, expected = self.world.inbox, expected_tokens(call, index)
        if request in self.stopped:
            kept = self.world.core.ledger.records[request].tokens
            assert kept == expected[: self.stopped[request]]
        else:
            assert inbox.tokens[request] == expected
            assert inbox.finish[request] is FinishReason.LENGTH
        assert inbox.ends.get(request, 0) <= 1

    @invariant()
    def tokens_are_those_of_an_undisturbed_run(self) -> None:
        for request, tokens in self.world.inbox.tokens.items():
            if request in self.alive:
                call, index = self.alive[request]
                assert tokens == expected_tokens(call, index)[: len(tokens)]

    @invariant()
    def every_request_is_in_one_place(self) -> None:
        core = self.world.core
        queued = {record.request for entry in core.queue for record in entry.records}
        assigned = [request for executor in core.executors for request in executor.assigned]
        assert len(queued) == core.queue.num_records
        assert len(assigned) == len(set(assigned))
        assert not queued & set(assigned)
        assert core.ledger.num_under_way == len(queued) + len(assigned)
        assert core.ledger.num_under_way <= MAX_QUEUE

    def teardown(self) -> None:
        for which in range(2):
            self.attach_executor(which)
        for _ in range(300):
            if not self.world.core.ledger.num_under_way:
                break
            for which in range(2):
                self.step(which, True)
        self.world.receive()
        for request in list(self.alive):
            self.check_ended(request)
            self.world.core.on_released(self.world.consumer, request)
        self.world.pass_time(60)
        self.world.assert_empty()
        for executor in self.executors:
            orders = executor.collect()
            if orders is not None:
                self.processes[executor].apply(orders)
            assert not self.processes[executor].rows


class LpmMachine(SchedulerMachine):
    """The same under the other policy."""

    policy = LongestPrefixMatch(max_bypass=2)


TestFcfs = SchedulerMachine.TestCase
TestFcfs.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
TestLpm = LpmMachine.TestCase
TestLpm.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
