"""A client's stream of calls on one program: those on one state one after the other, all others side by side."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from bough.common.errors import BoughError, InternalError, InvalidRequestError, UnavailableError
from bough.common.telemetry import request_extra
from bough.gateway.errors import refuse
from bough.gateway.generate import generation_name
from bough.gateway.programs.actions import (
    Action,
    Answer,
    Cancel,
    Changed,
    Close,
    Extend,
    Failed,
    Fork,
    Generate,
    Grown,
    Join,
    Release,
    Rollback,
    Select,
    StateAction,
)
from bough.gateway.programs.errors import CallCancelledError
from bough.gateway.programs.outlet import Outlet
from bough.gateway.programs.pieces import Pieces
from bough.gateway.programs.program import Prepared, Program
from bough.gateway.programs.registry import Programs
from bough.gateway.programs.turns import Turn, Turns
from bough.gateway.receiver import Call, Piece

logger = logging.getLogger(__name__)

MAX_UNANSWERED = 4096
"""Calls taken and not answered; no more are read before."""

Request = tuple[int, Action | InvalidRequestError]
"""The number of a call, and what it asks, or what is wrong with it."""


class _Pending:
    """A call that is not answered yet."""

    def __init__(self, number: int, action: StateAction, name: str) -> None:
        self.number = number
        self.action = action
        self.call = Call(name)
        """What fails when the call is cancelled; used only where the model is."""
        self.turn: Turn | None = None
        self.cancelled: BoughError | None = None
        self.answered = False

    @property
    def uses_model(self) -> bool:
        """Whether it takes time, and can be cancelled."""
        return isinstance(self.action, Generate | Select)


class Session:
    """Serves one stream.

    Args:
        programs: All programs, for drain and metrics.
        program: The one that the stream works on.
        write: Hands an answer to the transport; returns once flow control let it pass.
        name: Of the stream, for logs.
    """

    def __init__(
        self, programs: Programs, program: Program, write: Callable[[int, Answer], Awaitable[None]], *, name: str
    ) -> None:
        self._programs = programs
        self._program = program
        self._outlet = Outlet(write)
        self._name = name
        self._unanswered: dict[int, _Pending] = {}
        self._turns = Turns()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self._closing: int | None = None
        """The call that ends the program."""

    async def run(self, requests: AsyncIterator[Request], *, opening: int) -> None:
        """Serve until the client has said all and everything is answered, or has ended the program.

        Args:
            requests: The calls.
            opening: Number of the call that opened the program.

        Raises:
            NotFoundError: The program is gone: the scheduler was restarted.
            UnavailableError: The gateway is shutting down; all calls that were taken are answered.
        """
        self._programs.metrics.session(1)
        helpers = [asyncio.create_task(work) for work in (self._outlet.run(), self._program.keep_alive())]
        try:
            await self._outlet.send(opening, self._programs.opened(self._program))
            reading = asyncio.create_task(self._read(requests))
            draining = asyncio.create_task(self._programs.draining())
            helpers += [reading, draining]
            await _first(*helpers)
            if not reading.done():
                reading.cancel()
                await asyncio.wait({reading})
            if self._closing is not None:
                self._cancel_all("the program was closed")
            answered = asyncio.create_task(self._all_answered())
            helpers.append(answered)
            await _first(answered, *helpers[:2])
            if self._closing is not None:
                await self._close_program(self._closing)
            elif reading.cancelled():
                raise UnavailableError("the gateway is shutting down: open the program again by its name")
        finally:
            await self._end(helpers)

    async def _read(self, requests: AsyncIterator[Request]) -> None:
        async for number, action in requests:
            if number in self._unanswered:
                raise refuse("call", number, "a number that no call has that is under way")
            match action:
                case Close():
                    self._closing = number
                    return
                case InvalidRequestError():
                    await self._outlet.send(number, Failed(error=action))
                case Cancel():
                    await self._outlet.send(number, Changed(state=self._cancel(action.call)))
                case _:
                    self._take(number, action)
            while len(self._unanswered) >= MAX_UNANSWERED:
                self._settled.clear()
                await self._settled.wait()

    def _take(self, number: int, action: StateAction) -> None:
        pending = _Pending(number, action, f"{self._name}.{number}")
        if isinstance(action, Release):
            self._cancel_on(action)
        self._unanswered[number] = pending
        prepared = self._program.prepare(action)
        pending.turn = self._turns.take(action, lambda turn: self._spawn(self._serve(pending, turn, prepared)))

    def _cancel(self, target: int) -> int:
        """Cancel a call that uses the model; returns its state, 0 where there is none."""
        pending = self._unanswered.get(target)
        if pending is None or not isinstance(pending.action, Generate | Select):
            return 0
        self._abort(pending, CallCancelledError("the call was cancelled"))
        return pending.action.state

    def _cancel_on(self, release: Release) -> None:
        for pending in list(self._unanswered.values()):
            if isinstance(pending.action, Generate | Select) and pending.action.state in release.states:
                error = CallCancelledError(f"state {pending.action.state} was released")
                if self._abort(pending, error) and pending.turn is not None:
                    pending.turn.break_off()

    def _cancel_all(self, reason: str) -> None:
        for pending in list(self._unanswered.values()):
            if pending.uses_model or (pending.turn is not None and not pending.turn.has_come):
                self._abort(pending, CallCancelledError(reason))

    def _abort(self, pending: _Pending, error: BoughError) -> bool:
        """Have a call fail, at once where it has not begun; False where it has failed or is being answered."""
        if pending.cancelled is not None or pending.answered:
            return False
        pending.cancelled = error
        pending.call.fail(error)
        if pending.turn is not None and not pending.turn.has_come:
            self._answer(pending, Failed(error=error))
        return True

    async def _serve(self, pending: _Pending, turn: Turn, prepared: Prepared) -> None:
        """Carry a call out, now that its turn has come, and answer it."""
        failure = pending.cancelled or turn.failure
        if pending.answered:
            turn.done(failure)
            return
        answer: Answer
        try:
            if failure is not None:
                raise failure
            answer = await self._carry_out(pending, prepared)
        except BoughError as error:
            failure = error
        except Exception as error:
            logger.error("a call failed", exc_info=error, extra=request_extra(pending.call.name))
            failure = InternalError("internal error")
        if failure is not None:
            answer = Failed(error=failure)
        # The next call on the state need not wait until the transport has the answer, which goes out before its own.
        answering = self._answer(pending, answer)
        turn.done(failure)
        await answering

    async def _carry_out(self, pending: _Pending, prepared: Prepared) -> Answer:
        program = self._program
        match pending.action:
            case Extend() as action:
                return await program.extend(action, prepared)
            case Generate() as action:
                return await self._generate(pending, action)
            case Select() as action:
                return await program.select(pending.call, action)
            case Fork() as action:
                return await program.fork(action)
            case Join() as action:
                return await program.join(action)
            case Rollback() as action:
                return await program.rollback(action)
            case Release() as action:
                return await program.release(action)

    async def _generate(self, pending: _Pending, action: Generate) -> Changed:
        call = pending.call
        async with self._program.generate(call, action) as generation:
            requests = [receiver.request for receiver in call.receivers]
            name = generation_name(call.num_prompt_tokens[0], requests)

            def tell(piece: Piece) -> Awaitable[None] | None:
                return self._outlet.offer(pending.number, Grown(call=call, generation=name, piece=piece))

            pieces = Pieces(action, tell)

            def take(found: list[Piece]) -> Awaitable[None] | None:
                for piece in found:
                    generation.running.saw(piece)
                return pieces.take(found)

            await call.each(take)
            return await generation.keep()

    def _answer(self, pending: _Pending, answer: Answer) -> asyncio.Future[None]:
        """Send the last answer of a call; what is returned is done once the transport has it."""
        pending.answered = True
        status = answer.error.code.name if isinstance(answer, Failed) else "OK"
        self._programs.metrics.program_call(type(pending.action).__name__.lower(), status)
        written = self._outlet.put(pending.number, answer)
        written.add_done_callback(lambda _: self._settle(pending))
        return written

    def _settle(self, pending: _Pending) -> None:
        self._unanswered.pop(pending.number, None)
        self._settled.set()

    async def _all_answered(self) -> None:
        # Who waits for a turn has no task, but waits for one that has.
        while self._tasks or self._unanswered:
            self._settled.clear()
            waiting = asyncio.ensure_future(self._settled.wait())
            try:
                await asyncio.wait({waiting, *self._tasks}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                waiting.cancel()

    async def _close_program(self, number: int) -> None:
        answer: Answer = Changed()
        try:
            await self._program.ledger.close_program()
        except BoughError as error:
            answer = Failed(error=error)
        await self._outlet.send(number, answer)

    async def _end(self, helpers: list[asyncio.Task[None]]) -> None:
        tasks = [*helpers, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._programs.metrics.session(-1)
        self._programs.keep(self._leave())
        logger.debug("stream ended, %d calls unanswered", len(self._unanswered), extra=request_extra(self._name))

    async def _leave(self) -> None:
        """The states outlive the stream by a lease."""
        ledger = self._program.ledger
        await ledger.close()
        if self._closing is None:
            with contextlib.suppress(BoughError):
                await ledger.renew()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


async def _first(*tasks: asyncio.Task[None]) -> None:
    """Wait until a task has ended; raises what it, or another one, raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
