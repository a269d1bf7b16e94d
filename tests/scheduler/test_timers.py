"""Points in time at which something must happen."""

from __future__ import annotations

import random
from functools import partial

from bough.scheduler.timers import Timers


def test_timers_run_in_order_once_they_are_due() -> None:
    timers, ran = Timers(), list[int]()
    for at_s in (3, 1, 2):
        timers.at(at_s, partial(ran.append, at_s))
    assert timers.next_s() == 1
    timers.run_due(2)
    assert (ran, timers.next_s()) == ([1, 2], 3)


def test_a_cancelled_timer_never_runs_and_is_not_waited_for() -> None:
    timers, ran = Timers(), list[int]()
    timer = timers.at(1, partial(ran.append, 1))
    timers.cancel(timer)
    timers.cancel(timer)
    assert (len(timers), timers.next_s()) == (0, None)
    timers.run_due(5)
    assert not ran


def test_an_action_may_set_another_timer() -> None:
    timers, ran = Timers(), list[str]()

    def first() -> None:
        ran.append("first")
        timers.at(2, partial(ran.append, "second"))

    timers.at(1, first)
    timers.run_due(3)
    assert ran == ["first", "second"]


def test_many_cancelled_timers_take_no_room_and_lose_no_other() -> None:
    timers, ran, order = Timers(), list[int](), list(range(1000))
    random.Random(1).shuffle(order)
    entries = {number: timers.at(number, partial(ran.append, number)) for number in order}
    for number in order[:950]:
        timers.cancel(entries[number])
    assert len(timers) == 50
    assert len(timers._heap) < 200
    timers.run_due(1000)
    assert ran == sorted(order[950:])
