"""Any server with OpenAI's API. States are kept here: each call sends its whole prompt.

Plain text goes to `/v1/completions` and is cut into tokens anew with each call; a chat goes to `/v1/chat/completions`.
What a server takes beyond OpenAI's API is told by its flavour, and what it does not take is refused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from bough.client.calls import MODELS, Call
from bough.client.errors import NotFoundError
from bough.client.retries import RetryPolicy
from bough.client.transport import AsyncTransport, Server
from bough.client.types import ChatDelta, CompletionDelta, Model
from bough.lang.backends.base import Generation, Piece, Selection
from bough.lang.backends.flavours import FLAVOURS, Flavour, Scoring
from bough.lang.backends.local import LocalSession, Prompt
from bough.lang.backends.scoring import echoed, forced
from bough.lang.choices import ChoiceLogprobs
from bough.lang.errors import ExpressionError, UnsupportedError

COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


@dataclass(slots=True)
class _Connection:
    """What the sessions of one event loop share."""

    transport: AsyncTransport
    num_sessions: int = 0
    models: list[Model] = field(default_factory=list)


class OpenAI:
    """A server with OpenAI's API.

    Args:
        base_url: `http://HOST:PORT`, with or without `/v1`.
        model: The model's name; where None, the first one that the server has.
        api_key: Sent as a bearer token.
        flavour: `bough`, `vllm`, `sglang`, or `openai` for one that takes nothing beyond that API.
        mode: `completions` or `chat` for a server that has only one of them; a program for the other is refused.
        retry: When calls are made again that the server did not take.
    """

    def __init__(
        self,
        base_url: str,
        *,
        model: str | None = None,
        api_key: str | None = None,
        flavour: Literal["bough", "vllm", "sglang", "openai"] = "bough",
        mode: Literal["auto", "completions", "chat"] = "auto",
        retry: RetryPolicy | None = None,
    ) -> None:
        if flavour not in FLAVOURS:
            raise ExpressionError(f"flavour: got {flavour!r}, accepted are {', '.join(FLAVOURS)}", field="flavour")
        if mode not in ("auto", "completions", "chat"):
            raise ExpressionError(f"mode: got {mode!r}, accepted are auto, completions and chat", field="mode")
        self._server = Server(base_url=base_url, api_key=api_key, retry=retry or RetryPolicy())
        self._model = model
        self._flavour = FLAVOURS[flavour]
        self._mode = mode
        self._connections: dict[asyncio.AbstractEventLoop, _Connection] = {}

    def __repr__(self) -> str:
        return f"<OpenAI at {self._server.base_url}>"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[LocalSession]:
        """A session for one program. Programs that run at the same time share connections; the last one closes them."""
        loop = asyncio.get_running_loop()
        connection = self._connections.get(loop)
        if connection is None:
            connection = self._connections[loop] = _Connection(AsyncTransport(self._server))
        connection.num_sessions += 1
        try:
            yield _Session(connection, self._model, self._flavour, self._mode)
        finally:
            connection.num_sessions -= 1
            if connection.num_sessions == 0:
                del self._connections[loop]
                await connection.transport.aclose()


class _Session(LocalSession):
    def __init__(self, connection: _Connection, model: str | None, flavour: Flavour, mode: str) -> None:
        super().__init__()
        self._connection = connection
        self._model = model
        self._flavour = flavour
        self._mode = mode

    async def _pieces(self, prompt: Prompt, generation: Generation) -> AsyncGenerator[Piece, None]:
        is_chat = prompt.messages is not None
        body = await self._prompt(prompt)
        body |= self._flavour.fields(generation.sampling, generation.constraint, is_chat=is_chat)
        body |= {"stream": True, "stream_options": {"include_usage": True}}
        transport = self._connection.transport
        if is_chat:
            async with aclosing(transport.stream(Call(path=CHATS, body=body), ChatDelta.of)) as chat:
                async for delta in chat:
                    yield _piece(delta, delta.content)
        else:
            async with aclosing(transport.stream(Call(path=COMPLETIONS, body=body), CompletionDelta.of)) as completion:
                async for piece in completion:
                    yield _piece(piece, piece.text)

    async def _scores(self, prompt: Prompt, selection: Selection) -> Sequence[ChoiceLogprobs]:
        body, transport = await self._prompt(prompt), self._connection.transport
        match self._flavour.scoring:
            case Scoring.ECHO if prompt.messages is None:
                return await echoed(transport, Call(path=COMPLETIONS, body=body), selection)
            case Scoring.FORCED if not selection.unconditional:
                path = COMPLETIONS if prompt.messages is None else CHATS
                return await forced(transport, Call(path=path, body=body), selection)
            case Scoring.FORCED:
                instead = "with nothing before them: take another choices_method"
            case Scoring.ECHO:
                instead = "in a chat: write the program in plain text, without roles"
            case _:
                instead = 'over its API: have it generate, with gen(regex="yes|no") where it takes a regex'
        raise UnsupportedError(f"select: a server of flavour {self._flavour.name!r} cannot score texts {instead}")

    async def _prompt(self, prompt: Prompt) -> dict[str, Any]:
        """The fields of a body that say what to go on with."""
        is_chat = prompt.messages is not None
        if self._mode == ("completions" if is_chat else "chat"):
            wanted = "plain text" if is_chat else "turns: s.user(), s.assistant()"
            raise UnsupportedError(f"mode: the backend is for {self._mode}, so that a program must be {wanted}")
        model = await self._model_name()
        body: dict[str, Any] = {} if model is None else {"model": model}
        if prompt.messages is None:
            return body | {"prompt": prompt.text}
        turns = [{"role": message.role, "content": message.content} for message in prompt.messages]
        if not prompt.text:
            return body | {"messages": turns}
        if not self._flavour.continues_turns:
            raise UnsupportedError(
                f"a server of flavour {self._flavour.name!r} does not go on with a turn that has begun"
            )
        turns.append({"role": "assistant", "content": prompt.text})
        return body | {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}

    async def _model_name(self) -> str | None:
        if self._model is not None or not self._flavour.needs_model:
            return self._model
        connection = self._connection
        if not connection.models:
            connection.models = await connection.transport.send(MODELS, Model.all_of)
        if not connection.models:
            raise NotFoundError("model: the server has none", field="model")
        return connection.models[0].id


def _piece(delta: ChatDelta | CompletionDelta, text: str) -> Piece:
    return Piece(
        text=text,
        index=delta.index,
        finish_reason=delta.finish_reason,
        logprobs=delta.logprobs,
        usage=delta.usage,
    )
