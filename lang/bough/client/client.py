"""The clients: one method for each call of the API, blocking and async."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Generator, Sequence
from typing import Self, Unpack

from bough.client import calls
from bough.client.calls import ChatOptions, CompletionOptions, Messages, Prompt
from bough.client.errors import UnavailableError
from bough.client.retries import RetryPolicy
from bough.client.transport import AsyncTransport, Server, Transport
from bough.client.types import Chat, ChatDelta, Completion, CompletionDelta, Model, Tokens
from bough.common.config import URL_VARIABLE


def default_url() -> str:
    """The address that BOUGH_URL names, else that of a server on this machine."""
    return os.environ.get(URL_VARIABLE) or "http://127.0.0.1:8000"


def find_server(
    base_url: str | None, api_key: str | None, timeout_s: float | None, retry: RetryPolicy | None
) -> Server:
    """The server at this address, else the default one; the key that is given, else BOUGH_API_KEY."""
    return Server(
        base_url=base_url or default_url(),
        api_key=api_key or os.environ.get("BOUGH_API_KEY") or None,
        timeout_s=timeout_s,
        retry=retry or RetryPolicy(),
    )


class Client:
    """A client of a server; a context manager that closes its connections.

    Args:
        base_url: `http://HOST:PORT`; BOUGH_URL, else http://127.0.0.1:8000, where None.
        api_key: BOUGH_API_KEY where None.
        timeout_s: How long the server may send nothing; None: for ever.
        retry: When calls are made again that the server did not take.
    """

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float | None = 600.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._transport = Transport(find_server(base_url, api_key, timeout_s, retry))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def complete(self, prompt: Prompt, *, model: str | None = None, **options: Unpack[CompletionOptions]) -> Completion:
        """What the model goes on with."""
        return self._transport.send(calls.completion(prompt, model, options), Completion.of)

    def stream_completion(
        self, prompt: Prompt, *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> Generator[CompletionDelta, None, None]:
        """As `complete`, in pieces as they come; closing the generator cancels."""
        return self._transport.stream(calls.completion(prompt, model, options, stream=True), CompletionDelta.of)

    def chat(self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]) -> Chat:
        """What the model answers."""
        return self._transport.send(calls.chat(messages, model, options), Chat.of)

    def stream_chat(
        self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]
    ) -> Generator[ChatDelta, None, None]:
        """As `chat`, in pieces as they come; closing the generator cancels."""
        return self._transport.stream(calls.chat(messages, model, options, stream=True), ChatDelta.of)

    def tokenize(self, prompt: Messages) -> Tokens:
        """The tokens of a text, or of a chat in the model's template."""
        return self._transport.send(calls.tokenize(prompt), Tokens.of)

    def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return self._transport.send(calls.detokenize(ids), calls.text_of)

    def models(self) -> list[Model]:
        """The models that are served."""
        return self._transport.send(calls.MODELS, Model.all_of)

    def is_healthy(self) -> bool:
        """Whether the server answers."""
        return self._answers(calls.HEALTH)

    def is_ready(self) -> bool:
        """Whether it can serve: everything behind it is up."""
        return self._answers(calls.READY)

    def _answers(self, call: calls.Call) -> bool:
        try:
            self._transport.send(call, bool)
        except UnavailableError:
            return False
        return True


class AsyncClient:
    """As `Client`, to be awaited; it belongs to the event loop that it is first used in."""

    def __init__(
        self,
        base_url: str | None = None,
        *,
        api_key: str | None = None,
        timeout_s: float | None = 600.0,
        retry: RetryPolicy | None = None,
    ) -> None:
        self._transport = AsyncTransport(find_server(base_url, api_key, timeout_s, retry))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections."""
        await self._transport.aclose()

    async def complete(
        self, prompt: Prompt, *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> Completion:
        """What the model goes on with."""
        return await self._transport.send(calls.completion(prompt, model, options), Completion.of)

    def stream_completion(
        self, prompt: Prompt, *, model: str | None = None, **options: Unpack[CompletionOptions]
    ) -> AsyncGenerator[CompletionDelta, None]:
        """As `complete`, in pieces as they come; closing the generator cancels."""
        return self._transport.stream(calls.completion(prompt, model, options, stream=True), CompletionDelta.of)

    async def chat(self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]) -> Chat:
        """What the model answers."""
        return await self._transport.send(calls.chat(messages, model, options), Chat.of)

    def stream_chat(
        self, messages: Messages, *, model: str | None = None, **options: Unpack[ChatOptions]
    ) -> AsyncGenerator[ChatDelta, None]:
        """As `chat`, in pieces as they come; closing the generator cancels."""
        return self._transport.stream(calls.chat(messages, model, options, stream=True), ChatDelta.of)

    async def tokenize(self, prompt: Messages) -> Tokens:
        """The tokens of a text, or of a chat in the model's template."""
        return await self._transport.send(calls.tokenize(prompt), Tokens.of)

    async def detokenize(self, ids: Sequence[int]) -> str:
        """The text of tokens."""
        return await self._transport.send(calls.detokenize(ids), calls.text_of)

    async def models(self) -> list[Model]:
        """The models that are served."""
        return await self._transport.send(calls.MODELS, Model.all_of)

    async def is_healthy(self) -> bool:
        """Whether the server answers."""
        return await self._answers(calls.HEALTH)

    async def is_ready(self) -> bool:
        """Whether it can serve: everything behind it is up."""
        return await self._answers(calls.READY)

    async def _answers(self, call: calls.Call) -> bool:
        try:
            await self._transport.send(call, bool)
        except UnavailableError:
            return False
        return True
