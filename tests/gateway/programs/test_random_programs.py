"""Random programs, their calls sent without waiting, against a model that runs them one after the other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import grpc.aio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.conftest import Deployment
from tests.gateway.programs.client import (
    CallFailedError,
    ProgramClient,
    cut,
    fork,
    gen,
    join,
    release,
    select,
    text,
)

OK, INVALID_ARGUMENT, NOT_FOUND, FAILED_PRECONDITION = 0, 3, 5, 9
NUMBERS = range(5)


def reply(prompt: str, sibling: int) -> str:
    """What the model says; short, and another for each prompt."""
    return f"({len(prompt)}{prompt[-1:]}{sibling})"


@dataclass
class Model:
    """A program, as the contract has it."""

    texts: dict[int, str] = field(default_factory=lambda: {0: ""})
    origins: dict[int, tuple[object, int]] = field(default_factory=dict)
    """By branch: which life of which number it branched off, and at which length."""
    lives: dict[int, object] = field(default_factory=lambda: {0: object()})

    def extend(self, state: int, added: str) -> int:
        if state not in self.texts:
            return NOT_FOUND
        self.texts[state] += added
        return OK

    def generate(self, state: int, stop: str) -> int:
        if state not in self.texts:
            return NOT_FOUND
        if not self.texts[state]:
            return INVALID_ARGUMENT
        said = reply(self.texts[state], 0)
        self.texts[state] += said.split(stop)[0] if stop else said
        return OK

    def select(self, state: int) -> int:
        if state not in self.texts:
            return NOT_FOUND
        return OK if self.texts[state] else INVALID_ARGUMENT

    def fork(self, state: int, children: list[int]) -> int:
        if state not in self.texts:
            return NOT_FOUND
        for child in children:
            self.texts[child] = self.texts[state]
            self.origins[child] = (self.lives[state], len(self.texts[state]))
            self.lives[child] = object()
        return OK

    def join(self, state: int, children: list[int]) -> int:
        if state not in self.texts:
            return NOT_FOUND
        for child in children:
            if child not in self.texts:
                return NOT_FOUND
            if self.origins.get(child, (None, 0))[0] is not self.lives[state]:
                return FAILED_PRECONDITION
        added = "".join(self.texts[child][self.origins[child][1] :] for child in children)
        for child in children:
            del self.texts[child]
        self.texts[state] += added
        return OK

    def rollback(self, state: int, length: int) -> int:
        if state not in self.texts:
            return NOT_FOUND
        if length > len(self.texts[state]):
            return INVALID_ARGUMENT
        self.texts[state] = self.texts[state][:length]
        if state in self.origins:
            origin, branched = self.origins[state]
            self.origins[state] = (origin, min(branched, length))
        return OK

    def release(self, states: list[int]) -> int:
        if not set(states) <= self.texts.keys():
            return NOT_FOUND
        for state in states:
            del self.texts[state]
        return OK


Call = tuple[dict[str, Any], int, bool]
"""A call, the code it is answered with, and whether its answer is waited for."""


@st.composite
def programs(draw: st.DrawFn) -> tuple[list[Call], dict[int, str]]:
    """Calls, and the states that they lead to."""
    model, calls = Model(), list[Call]()
    for _ in range(draw(st.integers(1, 25))):
        anywhere = draw(st.integers(0, 5)) == 0 or not model.texts
        known = [*NUMBERS] if anywhere else sorted(model.texts)
        at = draw(st.sampled_from(known))
        kind = draw(st.sampled_from(["extend", "generate", "select", "fork", "join", "rollback", "release"]))
        if kind == "release":
            # It cancels what is under way: where nothing is waited for, nobody knows what that is.
            calls = [(action, code, True) for action, code, _ in calls]
        if (call := _draw_call(draw, model, kind, at)) is not None:
            calls.append((*call, draw(st.integers(0, 4)) == 0))
    return calls, model.texts


def _draw_call(draw: st.DrawFn, model: Model, kind: str, at: int) -> tuple[dict[str, Any], int] | None:
    free = [number for number in NUMBERS if number not in model.texts]
    match kind:
        case "extend":
            added = draw(st.text("abc", max_size=3))
            return {"extend": text(at, added)}, model.extend(at, added)
        case "generate":
            stop = draw(st.sampled_from(["", "a", "0)"]))
            action = gen(at, stop=[stop] if stop else [], whole=draw(st.booleans()))
            return {"generate": action}, model.generate(at, stop)
        case "select":
            return {"select": select(at, "x", "yz")}, model.select(at)
        case "fork" if free and at in model.texts:
            # One that fails has what builds on it fail too, which is another test.
            children = draw(st.lists(st.sampled_from(free), min_size=1, max_size=3, unique=True))
            return {"fork": fork(at, *children)}, model.fork(at, children)
        case "join":
            others = [number for number in NUMBERS if number != at]
            children = draw(st.lists(st.sampled_from(others), min_size=1, max_size=2, unique=True))
            return {"join": join(at, *children)}, model.join(at, children)
        case "rollback":
            length = draw(st.integers(0, 8))
            return {"rollback": cut(at, length)}, model.rollback(at, length)
        case "release":
            return {"release": release(at)}, model.release([at])
        case _:
            return None


async def code_of(client: ProgramClient, number: int) -> int:
    try:
        await client.result(number)
    except CallFailedError as error:
        return error.code
    return OK


@given(program=programs())
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_calls_that_are_sent_at_once_do_what_they_do_one_after_the_other(
    deployment: Deployment, channel: grpc.aio.Channel, program: tuple[list[Call], dict[int, str]]
) -> None:
    deployment.chain.backend.reply = reply
    deployment.chain.scheduler.programs.clear()
    calls, texts = program
    async with ProgramClient(channel) as client:
        numbers = []
        for action, _, wait in calls:
            numbers.append(await client.send(**action))
            if wait:
                await code_of(client, numbers[-1])
        assert [await code_of(client, number) for number in numbers] == [code for _, code, _ in calls]
        assert deployment.chain.scheduler.program.texts == texts
