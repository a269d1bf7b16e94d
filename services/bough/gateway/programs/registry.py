"""All programs that this gateway works on: opening them by name, and ending their sessions."""

from __future__ import annotations

import asyncio
import secrets
import struct
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Coroutine
from typing import Any

from bough.common.errors import NotFoundError, UnavailableError
from bough.gateway import rules
from bough.gateway.errors import refuse, shown
from bough.gateway.generate import Generator
from bough.gateway.metrics import GatewayMetrics
from bough.gateway.programs.actions import DEFAULT_LEASE_S, MAX_LEASE_S, Opened, Opening
from bough.gateway.programs.ledger import Ledger, StateKeeper
from bough.gateway.programs.orders import ProgramChange
from bough.gateway.programs.program import Program, new_encoder

_NAME = struct.Struct("<16sH")


class Programs:
    """Opens programs and finds them again.

    Args:
        generator: Runs generations.
        keeper: The scheduler, which keeps the states.
        metrics: Where calls are counted.
    """

    def __init__(self, generator: Generator, keeper: StateKeeper, metrics: GatewayMetrics) -> None:
        self.identity = generator.model.identity
        self.metrics = metrics
        self._generator = generator
        self._keeper = keeper
        self._encoder = new_encoder(generator)
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining: asyncio.Event = asyncio.Event()

    async def open(self, opening: Opening, *, remembers: bool, traceparent: str = "") -> Program:
        """Open a program, or go on with one.

        Raises:
            InvalidRequestError: Something is not accepted, or the program does not exist any more.
        """
        if self._draining.is_set():
            raise UnavailableError("the gateway is shutting down")
        rules.check_model(opening.model, self.identity)
        lease_s = opening.lease_s
        if lease_s is not None and not 1 <= lease_s <= MAX_LEASE_S:
            raise refuse("lease_s", lease_s, f"an integer from 1 to {MAX_LEASE_S}")
        if opening.program:
            return await self._open_again(opening, remembers=remembers, traceparent=traceparent)
        lease_s = DEFAULT_LEASE_S if lease_s is None else lease_s
        program = self._program(secrets.token_bytes(16), lease_s, remembers=remembers, traceparent=traceparent)
        namespace = rules.cache_namespace(opening.cache_salt)
        await self._keeper.change(
            ProgramChange(program=program.ledger.program, lease_s=lease_s, cache_namespace=namespace),
            traceparent=traceparent,
        )
        program.is_new()
        return program

    def find(self, name: str, *, traceparent: str = "") -> Program:
        """A program by its name, for one call; whether it lives turns out there. NotFoundError for what is no name."""
        program, lease_s = parse_name(name)
        return self._program(program, lease_s, remembers=False, traceparent=traceparent)

    def opened(self, program: Program) -> Opened:
        """What a client is told of a program."""
        return Opened(program=program.name, lease_s=program.lease_s, identity=self.identity)

    def keep(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish something after whoever began it has gone."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def draining(self) -> None:
        """Wait until the gateway takes no new calls."""
        await self._draining.wait()

    def drain(self) -> None:
        """Have all sessions end once the calls that they took are answered."""
        self._draining.set()

    async def close(self) -> None:
        """Give up what is still under way."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._encoder.close()

    async def _open_again(self, opening: Opening, *, remembers: bool, traceparent: str) -> Program:
        if opening.cache_salt:
            raise refuse("cache_salt", opening.cache_salt, "nothing where `program` is given: it has its own")
        id_, lease_s = parse_name(opening.program)
        given = opening.lease_s
        program = self._program(id_, lease_s if given is None else given, remembers=remembers, traceparent=traceparent)
        # First without a lease: one that has ended must not come back as an empty program.
        await program.ledger.renew()
        if given is not None:
            await self._keeper.change(ProgramChange(program=id_, lease_s=given), traceparent=traceparent)
        return program

    def _program(self, id_: bytes, lease_s: int, *, remembers: bool, traceparent: str) -> Program:
        return Program(
            generator=self._generator,
            encoder=self._encoder,
            ledger=Ledger(self._keeper, id_, traceparent=traceparent),
            name=program_name(id_, lease_s),
            lease_s=lease_s,
            remembers=remembers,
            traceparent=traceparent,
        )


def program_name(program: bytes, lease_s: int) -> str:
    """The public name of a program: all that a gateway must know to go on with it."""
    return urlsafe_b64encode(_NAME.pack(program, lease_s)).decode()


def parse_name(name: str) -> tuple[bytes, int]:
    """(id, lease in seconds) of a program's name; NotFoundError for anything else."""
    try:
        program, lease_s = _NAME.unpack(urlsafe_b64decode(name))
        if not 1 <= lease_s <= MAX_LEASE_S or program_name(program, lease_s) != name:
            raise ValueError
    except (ValueError, struct.error):
        raise NotFoundError(f"program: {shown(name)} does not exist", field="program") from None
    return program, lease_s
