"""Tokenizer, grammar service and scheduler: unary calls, spread over all copies and tried again while one restarts."""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import grpc
import grpc.aio

from bough.common.codec import decode_identity, grammar_kind_to_wire
from bough.common.errors import InvalidRequestError, MismatchError, UnavailableError
from bough.common.model import ModelIdentity, check_same_model
from bough.common.rpc.channel import RetryPolicy, call, open_channel
from bough.common.sampling import Grammar
from bough.gateway.domain import ChatPrompt, Constraint
from bough.gateway.programs.codec import decode_answers, encode_change
from bough.gateway.programs.orders import OrderAnswer, ProgramChange
from bough.rpc.v1 import (
    grammar_pb2,
    grammar_pb2_grpc,
    scheduler_pb2,
    scheduler_pb2_grpc,
    tokenizer_pb2,
    tokenizer_pb2_grpc,
)

Stub = TypeVar("Stub")
T = TypeVar("T")


def retry_policy(grace_s: float) -> RetryPolicy:
    """Tries for about `grace_s`, so that a call outlives the restart of a peer."""
    quick = RetryPolicy()
    return RetryPolicy(attempts=quick.attempts + math.ceil(grace_s / quick.max_backoff_s))


class Peer(Generic[Stub]):
    """A service called by unary RPCs: a channel to each address of its setting, used in turn.

    Args:
        name: The service's name, for messages.
        address: One address or several, by commas; `dns:///` names are spread by the channel itself.
        stub: Makes a stub of a channel.
        policy: How often a call is tried.
    """

    def __init__(self, name: str, address: str, stub: Callable[[grpc.aio.Channel], Stub], policy: RetryPolicy) -> None:
        self.name = name
        self.address = address
        self.channels = [open_channel(part.strip()) for part in address.split(",") if part.strip()]
        self.mismatch: MismatchError | None = None
        """Set when the peer holds another model; calls are refused until it does not."""
        self._policy = policy
        self._stubs = itertools.cycle([(channel, stub(channel)) for channel in self.channels])

    async def call(
        self,
        method: Callable[[Stub], Callable[..., Awaitable[T]]],
        request: object,
        *,
        traceparent: str = "",
        once: bool = False,
        repeat: bool = True,
    ) -> T:
        """Call a method of whichever copy is next; with `once`, for 2 seconds and without a second try.

        Without `repeat` a call that may have been carried out is not tried again.
        """
        if self.mismatch is not None and not once:
            raise self.mismatch
        metadata = (("traceparent", traceparent),) if traceparent else None

        async def attempt(message: object, *, timeout: float) -> T:  # noqa: ASYNC109  # gRPC's own deadline
            return await method(self._next())(message, timeout=timeout, metadata=metadata)

        policy = self._policy if repeat else RetryPolicy(attempts=1)
        if once:
            policy = RetryPolicy(attempts=1, attempt_timeout_s=2.0)
        return await call(attempt, request, peer=self.name, policy=policy)

    def _next(self) -> Stub:
        """The copies in turn; those whose connection is broken are passed over while there is a better one."""
        for channel, stub in itertools.islice(self._stubs, len(self.channels)):
            # Asking has a channel that is idle connect, and a broken one goes on trying.
            if channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.TRANSIENT_FAILURE:
                return stub
        return next(self._stubs)[1]

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(channel.close() for channel in self.channels))


class Tokenizer:
    """Text and chats to token ids."""

    def __init__(self, address: str, policy: RetryPolicy) -> None:
        self.peer: Peer[tokenizer_pb2_grpc.TokenizerServiceAsyncStub] = Peer(
            "tokenizer", address, tokenizer_pb2_grpc.TokenizerServiceStub, policy
        )
        self._chat_template: str | None = None

    async def encode(
        self, texts: Sequence[str], *, add_special_tokens: bool = True, traceparent: str = ""
    ) -> list[tuple[int, ...]]:
        """Token ids of each text."""
        request = tokenizer_pb2.EncodeRequest(texts=texts, add_special_tokens=add_special_tokens)
        response: tokenizer_pb2.EncodeResponse
        try:
            response = await self.peer.call(lambda stub: stub.Encode, request, traceparent=traceparent)
        except InvalidRequestError as error:
            error.field = error.field or "prompt"
            raise
        return [tuple(encoding.ids) for encoding in response.encodings]

    async def encode_chat(self, prompt: ChatPrompt, *, traceparent: str = "") -> tuple[tuple[int, ...], str]:
        """Token ids and text of a rendered chat."""
        response = await self._encode_chat(_chat_request(prompt), traceparent)
        return tuple(response.ids), response.text

    async def encode_added(
        self, prompt: ChatPrompt, num_known: int, *, is_open: bool, traceparent: str = ""
    ) -> tuple[tuple[int, ...], bool]:
        """Token ids of what a chat adds to its first messages, the last of which may be open.

        True beside them where they are the whole chat, and take the place of what was there.
        """
        request = _chat_request(prompt)
        request.num_known, request.known_is_open = num_known, is_open
        response = await self._encode_chat(request, traceparent)
        return tuple(response.ids), response.replaces

    async def _encode_chat(
        self, request: tokenizer_pb2.EncodeChatRequest, traceparent: str
    ) -> tokenizer_pb2.EncodeChatResponse:
        response: tokenizer_pb2.EncodeChatResponse
        try:
            response = await self.peer.call(lambda stub: stub.EncodeChat, request, traceparent=traceparent)
        except InvalidRequestError as error:
            error.field = error.field or "messages"
            raise
        return response

    async def chat_template(self) -> str:
        """Source of the model's chat template; empty where it has none. Asked for once: it belongs to the model."""
        if self._chat_template is None:
            response: tokenizer_pb2.TokenizerDescribeResponse = await self.peer.call(
                lambda stub: stub.Describe, tokenizer_pb2.TokenizerDescribeRequest()
            )
            self._chat_template = response.chat_template
        return self._chat_template

    async def encode_one(self, text: str) -> tuple[int, ...]:
        """Token ids of a text with nothing added."""
        return (await self.encode([text], add_special_tokens=False))[0]

    async def check(self, identity: ModelIdentity) -> None:
        """Raise unless a copy answers and holds the model."""
        response: tokenizer_pb2.TokenizerDescribeResponse = await self.peer.call(
            lambda stub: stub.Describe, tokenizer_pb2.TokenizerDescribeRequest(), once=True
        )
        _compare(self.peer, identity, decode_identity(response.identity))


def _chat_request(prompt: ChatPrompt) -> tokenizer_pb2.EncodeChatRequest:
    return tokenizer_pb2.EncodeChatRequest(
        messages_json=prompt.messages_json,
        tools_json=prompt.tools_json,
        template_kwargs_json=prompt.template_kwargs_json,
        add_generation_prompt=prompt.add_generation_prompt,
        continue_final_message=prompt.continue_final_message,
    )


class GrammarCompiler:
    """Constraints to compiled grammars, which stay in the grammar service; here they are a key."""

    def __init__(self, address: str, policy: RetryPolicy) -> None:
        self.peer: Peer[grammar_pb2_grpc.GrammarServiceAsyncStub] = Peer(
            "grammar", address, grammar_pb2_grpc.GrammarServiceStub, policy
        )

    async def compile(self, constraint: Constraint, *, traceparent: str = "") -> Grammar:
        """Compile a constraint; InvalidRequestError names the client's field."""
        request = grammar_pb2.CompileRequest(kind=grammar_kind_to_wire(constraint.kind), text=constraint.text)
        response: grammar_pb2.CompileResponse
        try:
            response = await self.peer.call(lambda stub: stub.Compile, request, traceparent=traceparent)
        except InvalidRequestError as error:
            # The service names the field that has this kind as a rule; the client may know it by another name.
            _, _, what = str(error).partition(": ")
            raise InvalidRequestError(f"{constraint.field}: {what}", field=constraint.field) from error
        return Grammar(key=response.key, kind=constraint.kind, text=constraint.text)

    async def check(self, identity: ModelIdentity) -> None:
        """Raise unless a copy answers and holds the model."""
        response: grammar_pb2.GrammarDescribeResponse = await self.peer.call(
            lambda stub: stub.Describe, grammar_pb2.GrammarDescribeRequest(), once=True
        )
        _compare(self.peer, identity, decode_identity(response.identity))


class Scheduler:
    """Keeps programs and their states. Requests go to it through the detokenizers.

    Args:
        address: Where it is; empty: nobody has said so, and there are no programs.
        policy: How often a call is tried that may be repeated.
    """

    def __init__(self, address: str, policy: RetryPolicy) -> None:
        self.peer: Peer[scheduler_pb2_grpc.SchedulerServiceAsyncStub] = Peer(
            "scheduler", address, scheduler_pb2_grpc.SchedulerServiceStub, policy
        )

    async def change(self, change: ProgramChange, *, traceparent: str = "") -> list[OrderAnswer]:
        """Carry out orders for a program; an answer each. NotFoundError where the program is not known."""
        if not self.peer.channels:
            raise UnavailableError("programs need the scheduler: set scheduler_address or run_dir of the gateway")
        response: scheduler_pb2.ChangeProgramResponse = await self.peer.call(
            lambda stub: stub.ChangeProgram,
            encode_change(change),
            traceparent=traceparent,
            repeat=change.may_be_repeated,
        )
        return decode_answers(response)


def _compare(peer: Peer[Stub], mine: ModelIdentity, theirs: ModelIdentity) -> None:
    try:
        check_same_model(mine, theirs, peer=peer.name)
    except MismatchError as error:
        peer.mismatch = error
        raise
    peer.mismatch = None
