"""Random programs give what an interpreter gives that shares nothing."""

from __future__ import annotations

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from bough.lang import Fake, Result, function
from tests.lang.reference import (
    MadeUp,
    Op,
    Outcome,
    build_async,
    build_plain,
    chat_programs,
    interpret,
    plain_programs,
)

PROGRAMS = st.one_of(plain_programs(), chat_programs())


def outcome_of(result: Result[None]) -> Outcome:
    return Outcome({name: result[name] for name in result}, result.text(), result.messages())


@given(PROGRAMS)
@settings(max_examples=200, deadline=None)
def test_an_async_program_gives_what_whole_prompts_give(ops: tuple[Op, ...]) -> None:
    backend = Fake()
    result = function(build_async).run(ops, backend=backend)
    assert outcome_of(result) == asyncio.run(interpret(ops, MadeUp()))
    assert backend.num_under_way == backend.num_sessions == 0


@given(PROGRAMS)
@settings(max_examples=50, deadline=None)
def test_a_plain_program_gives_what_whole_prompts_give(ops: tuple[Op, ...]) -> None:
    result = function(build_plain).run(ops, backend=Fake())
    assert outcome_of(result) == asyncio.run(interpret(ops, MadeUp()))
