"""Programs in REST: each call by itself, at whichever gateway it comes to; the scheduler has the states."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from bough.common.errors import BoughError
from bough.gateway import rules
from bough.gateway.app import route
from bough.gateway.body import parse_body, read_body
from bough.gateway.endpoints import EventStream, gather_body, send_json, watched
from bough.gateway.formats import CompletionFormat, Shape, event_of, finite
from bough.gateway.generate import Generator
from bough.gateway.http_server import body_writer
from bough.gateway.programs.actions import Changed, Score
from bough.gateway.programs.bodies import (
    ExtendBody,
    ForkBody,
    GenerateBody,
    JoinBody,
    ProgramBody,
    ReleaseBody,
    RollbackBody,
    SelectBody,
)
from bough.gateway.programs.program import Generation, Program
from bough.gateway.programs.registry import Programs
from bough.gateway.receiver import Call
from bough.gateway.schema import Body

B = TypeVar("B", bound=Body)
Operation = Callable[[Program, Scope, Receive, Send], Awaitable[None]]


class ProgramEndpoints:
    """Answers the endpoints of programs.

    Args:
        programs: Opens programs and finds them.
        generator: Knows the model.
        limit_bytes: Largest body.
    """

    def __init__(self, programs: Programs, generator: Generator, *, limit_bytes: int) -> None:
        self._programs = programs
        self._limit_bytes = limit_bytes
        self._identity = generator.model.identity
        self._operations: dict[str, Operation] = {
            "extend": self._extend,
            "generate": self._generate,
            "select": self._select,
            "fork": self._fork,
            "join": self._join,
            "rollback": self._rollback,
            "release": self._release,
        }

    def routes(self) -> list[Route]:
        """What is served."""
        return [
            route("POST", "/v1/programs", self._open),
            route("DELETE", "/v1/programs/{program}", self._close),
            *(
                route("POST", f"/v1/programs/{{program}}/{name}", self._endpoint(name, operation))
                for name, operation in self._operations.items()
            ),
        ]

    def _endpoint(self, name: str, operation: Operation) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        async def endpoint(scope: Scope, receive: Receive, send: Send) -> None:
            status = "OK"
            try:
                async with self._program(scope) as program:
                    await operation(program, scope, receive, send)
            except BoughError as error:
                status = error.code.name
                raise
            finally:
                self._programs.metrics.program_call(name, status)

        return endpoint

    @asynccontextmanager
    async def _program(self, scope: Scope) -> AsyncIterator[Program]:
        name: str = scope["path_params"]["program"]
        program = self._programs.find(name, traceparent=scope["state"]["traceparent"])
        try:
            yield program
        finally:
            await program.ledger.close()

    async def _body(self, schema: type[B], scope: Scope, receive: Receive) -> B:
        return await parse_body(await read_body(scope, receive, limit_bytes=self._limit_bytes), schema)

    async def _open(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(ProgramBody, scope, receive)
        traceparent: str = scope["state"]["traceparent"]
        program = await self._programs.open(body.opening(), remembers=False, traceparent=traceparent)
        model = self._identity.model
        answer = {"id": program.name, "object": "program", "lease_s": program.lease_s, "model": model}
        await send_json(send, 200, answer)

    async def _close(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._program(scope) as program:
            await program.ledger.close_program()
            await send_json(send, 200, {"id": program.name, "object": "program", "deleted": True})

    async def _extend(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(ExtendBody, scope, receive)
        await send_json(send, 200, _state(await program.extend(body.action())))

    async def _generate(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(GenerateBody, scope, receive)
        action = body.action()
        rules.check_model(body.model or "", self._identity)
        call = Call(f"prog-{scope['state']['request_id']}")
        async with _alive(program), watched(receive, call), program.generate(call, action) as generation:
            options = body.stream_options
            usage = options is not None and bool(options.include_usage)
            shape = Shape(
                model=self._identity.model,
                fingerprint=f"fp_{self._identity.revision}",
                include_usage=bool(body.stream) and usage,
                token_ids=bool(body.return_token_ids),
            )
            style = CompletionFormat(call, shape)
            if body.stream:
                stream = EventStream(
                    generation.running,
                    style,
                    body_writer(scope),
                    include_usage=usage,
                    finish=lambda: _state_event(generation),
                )
                await stream.answer(send)
            else:
                answer = await gather_body(generation.running, style)
                await send_json(send, 200, {**answer, **_state(await generation.keep())})

    async def _select(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(SelectBody, scope, receive)
        call = Call(f"prog-{scope['state']['request_id']}")
        async with _alive(program), watched(receive, call):
            selected = await program.select(call, body.action())
        scores = zip(body.choices, selected.scores, strict=True)
        choices = [{"index": i, "text": text, **_score(score)} for i, (text, score) in enumerate(scores)]
        await send_json(send, 200, {"state": body.state, "choices": choices})

    async def _fork(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        action = (await self._body(ForkBody, scope, receive)).action()
        changed = await program.fork(action)
        await send_json(send, 200, {**_state(changed), "children": list(action.children)})

    async def _join(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(JoinBody, scope, receive)
        await send_json(send, 200, _state(await program.join(body.action())))

    async def _rollback(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(RollbackBody, scope, receive)
        await send_json(send, 200, _state(await program.rollback(body.action())))

    async def _release(self, program: Program, scope: Scope, receive: Receive, send: Send) -> None:
        body = await self._body(ReleaseBody, scope, receive)
        await program.release(body.action())
        await send_json(send, 200, {"states": body.states})


@asynccontextmanager
async def _alive(program: Program) -> AsyncIterator[None]:
    """Keeps a program's lease from ending under a call that takes longer."""
    task = asyncio.create_task(program.keep_alive())
    try:
        yield
    finally:
        task.cancel()
        # Where the program is gone, the call has been told so too.
        await asyncio.gather(task, return_exceptions=True)


async def _state_event(generation: Generation) -> str:
    """The event that ends a stream: what has become of the state."""
    return event_of({"object": "program.state", **_state(await generation.keep())})


def _state(changed: Changed) -> dict[str, int]:
    return {"state": changed.state, "length": changed.length}


def _score(score: Score) -> dict[str, Any]:
    others = score.unconditional_logprobs
    return {
        "token_ids": list(score.token_ids),
        "logprobs": [finite(logprob) for logprob in score.logprobs],
        "unconditional_logprobs": None if others is None else [finite(logprob) for logprob in others],
    }
