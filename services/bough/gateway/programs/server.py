"""The gRPC face of programs: one stream a client session."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator

from bough.common.errors import InvalidRequestError
from bough.gateway.app import ApiKey
from bough.gateway.programs.actions import Answer
from bough.gateway.programs.codec import decode_action, decode_opening, encode_answer
from bough.gateway.programs.registry import Programs
from bough.gateway.programs.session import Request, Session
from bough.gateway.server import Context, metadata
from bough.rpc.v1 import program_pb2 as pb
from bough.rpc.v1 import program_pb2_grpc


class ProgramsServicer(program_pb2_grpc.ProgramsServicer):
    """Runs programs for gRPC clients."""

    def __init__(self, programs: Programs, api_key: ApiKey) -> None:
        self._programs = programs
        self._api_key = api_key

    async def Run(  # type: ignore[override]  # writes instead of yielding, so that a broken stream ends it here
        self, request_iterator: AsyncIterator[pb.ProgramRequest], context: Context
    ) -> None:
        """Serve a client's calls on one program until it has no more."""
        self._api_key.check(metadata(context, "authorization"))
        messages = aiter(request_iterator)
        first = await anext(messages, None)
        if first is None:
            return
        traceparent = metadata(context, "traceparent").decode(errors="replace")
        program = await self._programs.open(decode_opening(first), remembers=True, traceparent=traceparent)

        async def write(call: int, answer: Answer) -> None:
            await context.write(encode_answer(call, answer))

        session = Session(self._programs, program, write, name=f"prog-{secrets.token_hex(12)}")
        await session.run(_requests(messages), opening=first.call)


async def _requests(messages: AsyncIterator[pb.ProgramRequest]) -> AsyncIterator[Request]:
    async for message in messages:
        try:
            yield message.call, decode_action(message)
        except InvalidRequestError as error:
            yield message.call, error
