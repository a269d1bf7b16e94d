"""The engine's thread: orders in, reports out, nothing lost between."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

from bough.executor.engine import Engine
from bough.executor.loop import EngineLoop
from bough.executor.orders import Orders, StepReport


class CountingEngine:
    """Makes as many steps as each order's number says, and reports them."""

    def __init__(self) -> None:
        self.left = 0
        self.steps = 0
        self.looks = 0

    def apply(self, orders: Orders) -> None:
        self.left += orders.number

    def step(self) -> StepReport | None:
        self.looks += 1
        if not self.left:
            return None
        self.left -= 1
        self.steps += 1
        return StepReport(step=self.steps)


def make_loop(
    engine: CountingEngine,
    on_report: Callable[[StepReport], None],
    on_failure: Callable[[BaseException], None] = lambda _: None,
    build: Callable[[], Any] | None = None,
) -> EngineLoop:
    return EngineLoop(
        build=build or (lambda: cast(Engine, engine)),
        on_ready=lambda _: None,
        on_report=on_report,
        on_failure=on_failure,
    )


async def test_orders_sent_while_the_model_loads_are_carried_out_and_all_reports_arrive_in_order() -> None:
    engine, seen, loaded, done = CountingEngine(), list[int](), threading.Event(), asyncio.Event()

    def build() -> CountingEngine:
        loaded.wait()
        return engine

    def on_report(report: StepReport) -> None:
        seen.append(report.step)
        if report.step == 3000:
            done.set()

    loop = make_loop(engine, on_report, build=build)
    loop.start()
    for _ in range(30):
        loop.send(Orders(number=100))
    loaded.set()
    await asyncio.wait_for(done.wait(), 30)
    assert seen == list(range(1, 3001))
    await asyncio.to_thread(loop.stop)
    # One look finds nothing to do; then the thread sleeps until orders come.
    assert engine.looks <= 3000 + 30 + 2


async def test_a_report_that_cannot_be_dealt_with_does_not_hold_up_the_next_ones() -> None:
    engine, seen, done = CountingEngine(), list[int](), asyncio.Event()
    problems: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context["exception"]))

    def on_report(report: StepReport) -> None:
        if report.step % 7 == 0:
            raise KeyError(report.step)
        seen.append(report.step)
        if report.step == 100:
            done.set()

    loop = make_loop(engine, on_report)
    loop.send(Orders(number=100))
    loop.start()
    await asyncio.wait_for(done.wait(), 30)
    assert seen == [step for step in range(1, 101) if step % 7]
    assert len(problems) == 14
    await asyncio.to_thread(loop.stop)


async def test_a_failure_to_load_is_told() -> None:
    failure: asyncio.Future[BaseException] = asyncio.get_running_loop().create_future()

    def build() -> Any:
        raise ValueError("planted")

    loop = make_loop(CountingEngine(), lambda _: None, failure.set_result, build)
    loop.start()
    assert str(await asyncio.wait_for(failure, 30)) == "planted"
    await asyncio.to_thread(loop.stop)
