"""What branches of a long state cost in the executor besides the model: messages, orders, pages.

    python -m bough.load.fork_cost [--tokens 32768] [--children 64] [--repeat 30]

Children with a few tokens of their own arrive in one message, as the scheduler sends them, at an engine whose model
computes nothing. Measured is CPU time from the bytes of the message until their first step is launched, with the whole
prompts, by reference to the state, and by reference to a state of a few tokens: what so many requests cost anyway.
"""

from __future__ import annotations

import argparse
import gc
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bough.common.telemetry import Telemetry
from bough.executor.bases import Bases
from bough.executor.codec import decode_orders
from bough.executor.engine import Engine
from bough.executor.mixed_budget import MixedBudget
from bough.executor.observer import Observer
from bough.executor.orders import Orders
from bough.executor.pipeline.base import Drawn
from bough.executor.row_table import RowTable
from bough.executor.running import Running
from bough.executor.step import StepPlan
from bough.rpc.v1 import executor_pb2 as pb

PAGE_SIZE = 16
SHORT_STATE = PAGE_SIZE + 1
OWN_TOKENS = 3
"""Of each child, behind the state; with the state's last token at most one page."""

_VOCAB_SIZE = 32_000
_STATE_BASE, _SHORT_BASE = 1, 2


@dataclass(slots=True, kw_only=True)
class _NoModel:
    """See `bough.executor.intake.Model`."""

    max_context: int
    num_pages: int
    page_size: int = PAGE_SIZE
    vocab_size: int = _VOCAB_SIZE
    context_cost: float = 0.0


class _NoPipeline:
    """Notes what it should compute; every token is the same."""

    depth = 2
    takes_drafts = False
    max_lines: int | None = None
    mixed_budget: MixedBudget | None = None

    def __init__(self, table: RowTable) -> None:
        self.plans: list[StepPlan] = []
        self._table = table
        self._under_way: list[Drawn] = []

    def draft_cost(self, num_rows: int) -> float:
        return 1.0

    def launch(self, plan: StepPlan, running: list[Running], settle: Callable[[], None]) -> None:
        self.plans.append(plan)
        self._table.changes.clear()
        self._under_way.append(Drawn(tokens=[3] * len(running), logprobs=None, failed={}))

    def collect(self, *, wait: bool) -> Drawn | None:
        return self._under_way.pop(0) if wait and self._under_way else None

    def forget(self, running: Running) -> None: ...


@dataclass(slots=True)
class Cost:
    """CPU time of each round, in seconds."""

    reading: list[float] = field(default_factory=list)
    """The message."""
    applying: list[float] = field(default_factory=list)
    """Its orders."""
    launching: list[float] = field(default_factory=list)
    """The step: pages, rows, what the step consists of."""
    message_bytes: int = 0

    def ms(self, *, least: bool = False) -> float:
        """Milliseconds in all, median or least."""
        totals = [sum(parts) for parts in zip(self.reading, self.applying, self.launching, strict=True)]
        return (min(totals) if least else statistics.median(totals)) * 1e3

    def parts_ms(self) -> tuple[float, float, float]:
        """Medians of the parts."""
        return tuple(statistics.median(part) * 1e3 for part in (self.reading, self.applying, self.launching))  # type: ignore[return-value]


@dataclass(frozen=True, slots=True, kw_only=True)
class ForkCost:
    """What was measured."""

    by_reference: Cost
    of_short_state: Cost
    whole: Cost
    copied_pages: float
    """Of a child by reference."""
    own_pages: float
    """That a child has besides the state's, the copy included."""
    computed_tokens: float
    """Of a child."""

    @property
    def fork_ms(self) -> float:
        """What the length of the state adds."""
        return self.by_reference.ms() - self.of_short_state.ms()


class ForkBench:
    """An engine that knows a long state and a short one.

    Args:
        num_tokens: Of the long state.
        num_children: Of each fork.
        repeat: Forks of each kind.
    """

    def __init__(self, num_tokens: int, num_children: int, repeat: int) -> None:
        self._random = random.Random(0)
        self._state, self._short = self._tokens(num_tokens), self._tokens(SHORT_STATE)
        self._num_children, self._repeat = num_children, repeat
        num_pages = 2 * (num_tokens // PAGE_SIZE + num_children * (3 * repeat + 3)) + 64
        model = _NoModel(max_context=num_tokens + 64, num_pages=num_pages)
        pipelines: list[_NoPipeline] = []

        def make_pipeline(table: RowTable) -> _NoPipeline:
            pipelines.append(_NoPipeline(table))
            return pipelines[0]

        self._engine = Engine(
            model,
            eos_token_ids=(),
            max_rows=num_children,
            token_budget=8192,
            observer=Observer(Telemetry("executor")),
            make_pipeline=make_pipeline,
        )
        [self._pipeline] = pipelines
        self._bases = Bases()
        self._num_requests = 0
        self._num_orders = 0

    def run(self) -> ForkCost:
        """Measure."""
        for number, state in ((_STATE_BASE, self._state), (_SHORT_BASE, self._short)):
            base = pb.Base(id=number, tokens=state[:-1])
            self._apply(
                decode_orders(pb.RunRequest(bases=[base], admits=[self._admit(number, state[-1:])]), self._bases)
            )
            self._finish()
        costs = {_STATE_BASE: Cost(), _SHORT_BASE: Cost(), 0: Cost()}
        copied = own = computed = 0.0
        for _ in range(self._repeat):
            for number, cost in costs.items():
                plan = self._fork(number, cost)
                if number == _STATE_BASE:
                    copied += len(plan.copies)
                    computed += sum(work.num_tokens for work in plan.chunks)
                    pages = [set(work.sequence.pages) for work in plan.chunks]
                    own += sum(map(len, pages)) - len(pages) * len(set.intersection(*pages))
                self._finish()
        forks = self._repeat * self._num_children
        return ForkCost(
            by_reference=costs[_STATE_BASE],
            of_short_state=costs[_SHORT_BASE],
            whole=costs[0],
            copied_pages=copied / forks,
            own_pages=own / forks,
            computed_tokens=computed / forks,
        )

    def _fork(self, number: int, cost: Cost) -> StepPlan:
        begins = {_STATE_BASE: self._state[-1:], _SHORT_BASE: self._short[-1:], 0: self._state}[number]
        admits = [self._admit(number, begins + self._tokens(OWN_TOKENS)) for _ in range(self._num_children)]
        message = pb.RunRequest(admits=admits).SerializeToString()
        cost.message_bytes = len(message)
        gc.collect()  # what the round before has left is not this one's
        began = time.thread_time()
        orders = decode_orders(pb.RunRequest.FromString(message), self._bases)
        read = time.thread_time()
        self._apply(orders)
        applied = time.thread_time()
        self._engine.step()
        launched = time.thread_time()
        cost.reading.append(read - began)
        cost.applying.append(applied - read)
        cost.launching.append(launched - applied)
        plan = self._pipeline.plans[0]
        if len(self._pipeline.plans) != 1 or len(plan.chunks) != self._num_children:
            raise RuntimeError(f"not all children began in one step, but {len(plan.chunks)}")
        return plan

    def _finish(self) -> None:
        while self._engine.step() is not None or self._engine.is_under_way:
            pass
        self._pipeline.plans.clear()

    def _admit(self, base: int, prompt: list[int]) -> pb.Admit:
        self._num_requests += 1
        admit = pb.Admit(requests=[self._num_requests], base=base, prompt=prompt, order=self._num_requests)
        admit.sampling.max_tokens = 1
        admit.sampling.temperature = 1.0
        admit.sampling.top_p = 1.0
        admit.sampling.repetition_penalty = 1.0
        admit.sampling.ignore_eos = True
        return admit

    def _apply(self, orders: Orders) -> None:
        self._num_orders += 1
        orders.number = self._num_orders
        self._engine.apply(orders)

    def _tokens(self, number: int) -> list[int]:
        return [self._random.randrange(_VOCAB_SIZE) for _ in range(number)]


def report(cost: ForkCost, num_tokens: int, num_children: int) -> str:
    """The result as text."""
    lines = [
        f"{num_children} children of {num_tokens:,} tokens; CPU ms until their first step is launched: median (least),"
        " of it message, orders, step"
    ]
    for name, part in (
        ("with whole prompts", cost.whole),
        ("by reference", cost.by_reference),
        (f"by reference, {SHORT_STATE} tokens", cost.of_short_state),
    ):
        reading, applying, launching = part.parts_ms()
        lines.append(
            f"{name:28} {part.ms():8.2f} ({part.ms(least=True):.2f}), "
            f"{reading:.2f} + {applying:.2f} + {launching:.2f}; {part.message_bytes:,} bytes"
        )
    lines.append(f"{'the length of the state':28} {cost.fork_ms:8.2f}")
    lines.append(
        f"a child: {cost.copied_pages:.2f} pages copied, {cost.own_pages:.2f} pages of its own, "
        f"{cost.computed_tokens:.2f} tokens computed"
    )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="bough.load.fork_cost", description=__doc__)
    parser.add_argument("--tokens", type=int, default=32_768)
    parser.add_argument("--children", type=int, default=64)
    parser.add_argument("--repeat", type=int, default=30)
    options = parser.parse_args(arguments)
    cost = ForkBench(options.tokens, options.children, options.repeat).run()
    print(report(cost, options.tokens, options.children))


if __name__ == "__main__":
    main()
